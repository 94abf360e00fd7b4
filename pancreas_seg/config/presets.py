"""Configurations by the name of a preset, or from a file."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from pancreas_seg.config.config import Config
from pancreas_seg.errors import ConfigError


def preset_names() -> list[str]:
    """Names that `load_preset` takes."""
    folder = resources.files("pancreas_seg") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_preset(name: str) -> Config:
    """The configuration of a preset that ships with the package."""
    if name not in preset_names():
        raise ConfigError(
            "config.unknown_preset",
            where=f"preset {name}",
            found=repr(name),
            expected=f"one of {', '.join(preset_names())}",
            advice="Or give a file of your own with --config.",
        )
    text = (resources.files("pancreas_seg") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    return Config.from_toml(text, where=f"preset {name}")


def load_config(path: Path) -> Config:
    """The configuration of a TOML file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "config.unreadable",
            where=path,
            found=f"a file that cannot be read as text ({error.__class__.__name__})",
            expected="a TOML file",
            advice="Check the path.",
        ) from error
    return Config.from_toml(text, where=path)
