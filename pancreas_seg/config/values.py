"""From values of TOML to those of the sections, and back; what is wrong is said by its key."""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pancreas_seg.errors import ConfigError


def plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def changed_section(section: Any, name: str, values: Mapping[str, Any], where: object) -> Any:
    hints = typing.get_type_hints(type(section))
    changes = {}
    for key, value in values.items():
        if key not in hints:
            raise unknown_key(where, f"{name}.{key}", [f"{name}.{known}" for known in hints])
        changes[key] = converted(hints[key], value, f"{name}.{key}", where)
    return dataclasses.replace(section, **changes)


def converted(hint: Any, value: Any, name: str, where: object) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value in arguments and type(value) in {type(a) for a in arguments}:
            return value
        raise wrong_value(where, name, value, "one of " + ", ".join(repr(a) for a in arguments))
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise wrong_value(where, name, value, "a list")
        fixed = None if arguments[-1] is Ellipsis else len(arguments)
        if fixed is not None and len(value) != fixed:
            raise wrong_value(where, name, value, f"a list of {fixed}")
        return tuple(converted(arguments[0], item, name, where) for item in value)
    if origin is collections.abc.Mapping:
        if not isinstance(value, Mapping):
            raise wrong_value(where, name, value, "a table")
        return {str(key): converted(arguments[1], item, name, where) for key, item in value.items()}
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if type(value) is hint:
        return value
    raise wrong_value(
        where, name, value, {int: "a whole number", str: "text", bool: "true or false"}.get(hint, "a number")
    )


def unknown_key(where: object, name: str, known: Iterable[str]) -> ConfigError:
    close = difflib.get_close_matches(name, list(known), n=1)
    return ConfigError(
        "config.unknown_key",
        where=where,
        found=f"the key {name}",
        expected=f"{close[0]} perhaps" if close else f"one of {', '.join(sorted(known))}",
        advice="`pancreas-seg info --preset default` lists all keys.",
    )


def wrong_value(where: object, name: str, value: Any, expected: str) -> ConfigError:
    return ConfigError(
        "config.wrong_value",
        where=where,
        found=f"{name} = {value!r}",
        expected=expected,
        advice="`pancreas-seg info --preset default` shows each key's default.",
    )
