"""All settings in one value, with a text form and a fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
import tomllib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pancreas_seg.config.rules import check
from pancreas_seg.config.sections import (
    AugmentConfig,
    CleanConfig,
    DataConfig,
    InferConfig,
    NetworkConfig,
    TrainConfig,
    VerdictConfig,
)
from pancreas_seg.config.values import changed_section, plain, unknown_key, wrong_value
from pancreas_seg.errors import ConfigError


@dataclass(frozen=True)
class Config:
    """Every setting of data, augmentation, network, training, inference, cleaning and verdict."""

    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    infer: InferConfig = field(default_factory=InferConfig)
    clean: CleanConfig = field(default_factory=CleanConfig)
    verdict: VerdictConfig = field(default_factory=VerdictConfig)

    def __post_init__(self) -> None:
        check(self)

    @property
    def in_channels(self) -> int:
        """Input channels of the network: one, or the slice and its neighbours."""
        return 1 + 2 * self.data.neighbour_slices

    @property
    def out_channels(self) -> int:
        """Output channels of the network: background and the classes."""
        return 1 + len(self.data.classes)

    def to_toml(self) -> str:
        """Complete text form; `from_toml` reads it back to an equal Config."""
        import tomli_w

        return tomli_w.dumps(plain(dataclasses.asdict(self)))

    @staticmethod
    def from_toml(text: str, where: object = "configuration") -> Config:
        """Read the text form. What it doesn't name keeps its default.

        Raises
        ------
        ConfigError
            If it is not TOML, names an unknown key, or a value has the wrong type or range.
        """
        try:
            tree = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(
                "config.not_toml",
                where=where,
                found=f"text that is no TOML ({error})",
                expected="TOML with sections such as [data] and [train]",
                advice="Start from `pancreas-seg info --preset default`.",
            ) from error
        return Config().changed(tree, where)

    def changed(self, tree: Mapping[str, Any], where: object = "configuration") -> Config:
        """A copy with the values of a nested mapping ``{section: {key: value}}`` put in."""
        sections: dict[str, Any] = {}
        hints = typing.get_type_hints(Config)
        for section, values in tree.items():
            if section not in hints:
                raise unknown_key(where, section, hints)
            if not isinstance(values, Mapping):
                raise wrong_value(where, section, values, "a section")
            sections[section] = changed_section(getattr(self, section), section, values, where)
        return dataclasses.replace(self, **sections)

    def with_settings(self, settings: Iterable[str]) -> Config:
        """A copy with ``"section.key=value"`` strings put in, as given to ``--set``."""
        config = self
        for setting in settings:
            name, equals, text = setting.partition("=")
            section, dot, key = name.strip().partition(".")
            if not (equals and dot and key):
                raise ConfigError(
                    "config.bad_setting",
                    where=f"--set {setting}",
                    found=repr(setting),
                    expected="section.key=value, for example train.steps=2000",
                    advice="`pancreas-seg info --preset default` lists all keys.",
                )
            try:
                value = tomllib.loads(f"value = {text}")["value"]
            except tomllib.TOMLDecodeError:
                value = text.strip()
            config = config.changed({section: {key: value}}, where=f"--set {setting}")
        return config

    def fingerprint(self, *sections: str) -> str:
        """First 16 hex digits of the SHA-256 of the text form, of all sections or the named ones."""
        tree = dataclasses.asdict(self)
        text = repr(sorted((name, plain(tree[name])) for name in (sections or tree)))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
