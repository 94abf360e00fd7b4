"""All settings in one value: frozen dataclasses, TOML in and out, presets, and a fingerprint.

A preset or a configuration file states only how it differs from the defaults below. The text form travels inside every
weights file, so `segment` needs the weights and nothing else.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import hashlib
import math
import tomllib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pancreas_seg.errors import ConfigError


@dataclass(frozen=True)
class DataConfig:
    """What the network sees: the model grid, the HU window, the shape of a sample, and the classes."""

    spacing_mm: tuple[float, float, float] = (1.5, 1.5, 2.0)
    """Voxel size of the model grid along Right, Anterior, Superior."""
    window_hu: tuple[float, float] = (-160.0, 240.0)
    """HU that become 0 and 1; values outside are clipped."""
    patch_size: tuple[int, ...] = (96, 96, 64)
    """Voxels of a sample: three numbers for 3D patches, two (Right, Anterior) for 2D slices."""
    neighbour_slices: int = 0
    """2D only: slices below and above that are given as additional channels, on each side."""
    classes: tuple[str, ...] = ("pancreas",)
    """Names of the network's output channels after the background."""
    merge: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"pancreas": ("pancreas", "cancer")})
    """Label names of the manifest that make up a class, where it isn't the class's own name alone."""
    cache: Literal["memory", "disk", "none"] = "memory"
    """Where preprocessed volumes are kept during training."""


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes to training samples. Probabilities are per sample; 0 switches a change off."""

    affine_probability: float = 0.7
    rotate_degrees: float = 15.0
    scale_range: float = 0.15
    elastic_probability: float = 0.0
    elastic_mm: float = 8.0
    """Largest displacement of the elastic deformation's control points."""
    elastic_grid_mm: float = 40.0
    """Distance between the elastic deformation's control points."""
    noise_probability: float = 0.2
    noise_hu: float = 20.0
    """Largest standard deviation of the added Gaussian noise."""
    organ_probability: float = 0.0
    organ_hu: float = 15.0
    """Standard deviation of an offset drawn for each labelled class by itself, as other contrast phases have it."""
    bias_probability: float = 0.0
    bias_hu: float = 15.0
    """Largest value of a smooth field that is added."""
    contrast_probability: float = 0.3
    contrast_gamma: float = 0.3
    """Gamma is drawn from 1/(1 + this) to 1 + this."""
    shift_hu: float = 20.0
    """Largest offset added to all voxels."""
    lowres_probability: float = 0.1
    lowres_zoom: float = 0.5
    """Smallest factor by which the resolution of an axis is lowered."""
    mirror_probability: float = 0.0
    """Left-right mirroring. Off, since the abdomen isn't symmetric."""


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of the Attention U-Net."""

    spatial_dims: Literal[2, 3] = 3
    channels: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Features of each level, finest first."""
    convs_per_level: int = 2
    norm: Literal["batch", "instance"] = "batch"
    gate: Literal["grid", "dense", "none"] = "grid"
    """"grid": the paper's gates, none on the first skip. "dense": a gate on every skip at full resolution."""
    deep_supervision: bool = True


@dataclass(frozen=True)
class TrainConfig:
    """How the network learns."""

    seed: int = 0
    steps: int = 20_000
    """Optimiser steps in all, rounded up to whole rounds."""
    validate_every: int = 500
    """Steps of one round: after each, validation, checkpoint and a line in metrics.csv."""
    batch_size: int = 2
    pancreas_fraction: float = 0.5
    """Share of samples centred on (or, in 2D, holding) a voxel of the first class."""
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    momentum: float = 0.99
    """For sgd (Nesterov)."""
    schedule: Literal["constant", "poly", "cosine"] = "poly"
    warmup_steps: int = 100
    clip_gradient_norm: float = 12.0
    """0 switches clipping off."""
    loss: Literal["dice", "dice_ce", "ce"] = "dice"
    loss_background: bool = False
    """Whether the Dice loss counts the background as a class."""
    loss_batch: bool = True
    """Whether Dice sums run over the whole batch instead of each sample by itself."""
    loss_epsilon: float = 1e-5
    supervision_weights: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125)
    """Weights of the outputs, finest first; normalised to a sum of 1."""
    class_weights: tuple[float, ...] = ()
    """Weight of each of data.classes in the Dice loss; empty for equal ones."""
    average_decay: float = 0.0
    """Weights are validated and saved as a running average that keeps this share at each step; 0 for none."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    early_stop_rounds: int = 0
    """Stop after that many rounds without a better validation Dice; 0 never stops early."""
    workers: int = 0
    """Processes that prepare samples."""


@dataclass(frozen=True)
class InferConfig:
    """How a volume is segmented."""

    mode: Literal["auto", "cascade", "full"] = "auto"
    """"cascade": a coarse network finds where to look. "full": everywhere. "auto": cascade if the weights can."""
    output: tuple[str, ...] = ("pancreas",)
    """Classes written to the mask, as values 1, 2, ... in this order."""
    margin_mm: float = 20.0
    """Cascade: by how much the box around what the coarse network found is grown on each side."""
    fallback: Literal["full", "none"] = "full"
    """Cascade: what is done where the coarse network gives no usable box: look everywhere, or leave the mask empty."""
    coarse_volume_ml: tuple[float, float] = (2.0, 600.0)
    """Cascade: smallest and largest volume of the organ that the coarse network is believed."""
    coarse_gap_mm: float = 50.0
    """Cascade: pieces of the organ further apart than this make the coarse network's box unusable."""
    overlap: float = 0.5
    blend: Literal["gaussian", "constant"] = "gaussian"
    window_batch: int = 1
    """Windows (3D) or slices (2D: times 8) given to the network at once."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"


@dataclass(frozen=True)
class CleanConfig:
    """What is done to the mask after the network."""

    keep_fraction: float = 0.25
    """Components smaller than this share of the largest one are removed; 1 keeps the largest alone."""
    fill_holes: bool = True
    minimum_volume_ml: float = 1.0
    """Components smaller than this are removed."""


@dataclass(frozen=True)
class Config:
    """Every setting of data, augmentation, network, training, inference and cleaning."""

    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    infer: InferConfig = field(default_factory=InferConfig)
    clean: CleanConfig = field(default_factory=CleanConfig)

    def __post_init__(self) -> None:
        _check_consistency(self)

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

        return tomli_w.dumps(_plain(dataclasses.asdict(self)))

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
                raise _unknown(where, section, hints)
            if not isinstance(values, Mapping):
                raise _wrong_type(where, section, values, "a section")
            sections[section] = _changed_section(getattr(self, section), section, values, where)
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
        text = repr(sorted((name, _plain(tree[name])) for name in (sections or tree)))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


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


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _changed_section(section: Any, name: str, values: Mapping[str, Any], where: object) -> Any:
    hints = typing.get_type_hints(type(section))
    changes = {}
    for key, value in values.items():
        if key not in hints:
            raise _unknown(where, f"{name}.{key}", [f"{name}.{known}" for known in hints])
        changes[key] = _converted(hints[key], value, f"{name}.{key}", where)
    return dataclasses.replace(section, **changes)


def _converted(hint: Any, value: Any, name: str, where: object) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value in arguments and type(value) in {type(a) for a in arguments}:
            return value
        raise _wrong_type(where, name, value, "one of " + ", ".join(repr(a) for a in arguments))
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong_type(where, name, value, "a list")
        fixed = None if arguments[-1] is Ellipsis else len(arguments)
        if fixed is not None and len(value) != fixed:
            raise _wrong_type(where, name, value, f"a list of {fixed}")
        return tuple(_converted(arguments[0], item, name, where) for item in value)
    if origin is collections.abc.Mapping:
        if not isinstance(value, Mapping):
            raise _wrong_type(where, name, value, "a table")
        return {str(key): _converted(arguments[1], item, name, where) for key, item in value.items()}
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if type(value) is hint:
        return value
    raise _wrong_type(
        where, name, value, {int: "a whole number", str: "text", bool: "true or false"}.get(hint, "a number")
    )


def _unknown(where: object, name: str, known: Iterable[str]) -> ConfigError:
    close = difflib.get_close_matches(name, list(known), n=1)
    return ConfigError(
        "config.unknown_key",
        where=where,
        found=f"the key {name}",
        expected=f"{close[0]} perhaps" if close else f"one of {', '.join(sorted(known))}",
        advice="`pancreas-seg info --preset default` lists all keys.",
    )


def _wrong_type(where: object, name: str, value: Any, expected: str) -> ConfigError:
    return ConfigError(
        "config.wrong_value",
        where=where,
        found=f"{name} = {value!r}",
        expected=expected,
        advice="`pancreas-seg info --preset default` shows each key's default.",
    )


def _check_consistency(config: Config) -> None:
    data, network, train, infer, augment = config.data, config.network, config.train, config.infer, config.augment
    size = network.spatial_dims
    rules: list[tuple[bool, str, Any, str]] = [
        (min(data.spacing_mm) > 0, "data.spacing_mm", data.spacing_mm, "three numbers above 0"),
        (data.window_hu[0] < data.window_hu[1], "data.window_hu", data.window_hu, "lower bound first"),
        (
            len(data.patch_size) == size,
            "data.patch_size",
            data.patch_size,
            f"{size} numbers for network.spatial_dims = {size}",
        ),
        (min(data.patch_size, default=0) >= 2, "data.patch_size", data.patch_size, "at least 2 voxels a side"),
        (data.neighbour_slices >= 0, "data.neighbour_slices", data.neighbour_slices, "0 or more"),
        (
            size == 2 or data.neighbour_slices == 0,
            "data.neighbour_slices",
            data.neighbour_slices,
            "0 unless network.spatial_dims = 2",
        ),
        (len(data.classes) >= 1, "data.classes", data.classes, "at least one name"),
        (len(set(data.classes)) == len(data.classes), "data.classes", data.classes, "each name once"),
        (
            set(infer.output) <= set(data.classes) and len(infer.output) > 0,
            "infer.output",
            infer.output,
            f"some of data.classes ({', '.join(data.classes)})",
        ),
        (
            len(network.channels) >= 2 and min(network.channels) > 0,
            "network.channels",
            network.channels,
            "two or more numbers above 0",
        ),
        (network.convs_per_level >= 1, "network.convs_per_level", network.convs_per_level, "1 or more"),
        (
            train.steps >= 1 and train.validate_every >= 1,
            "train.steps, train.validate_every",
            (train.steps, train.validate_every),
            "1 or more",
        ),
        (train.batch_size >= 1, "train.batch_size", train.batch_size, "1 or more"),
        (0 <= train.pancreas_fraction <= 1, "train.pancreas_fraction", train.pancreas_fraction, "0 to 1"),
        (train.learning_rate > 0, "train.learning_rate", train.learning_rate, "above 0"),
        (
            len(train.supervision_weights) >= 1 and sum(train.supervision_weights) > 0,
            "train.supervision_weights",
            train.supervision_weights,
            "at least one weight above 0",
        ),
        (0 <= infer.overlap < 1, "infer.overlap", infer.overlap, "0 up to, but not, 1"),
        (len(set(infer.output)) == len(infer.output), "infer.output", infer.output, "each name once"),
        (
            set(data.merge) <= set(data.classes) | {"pancreas"},
            "data.merge",
            dict(data.merge),
            "tables for data.classes",
        ),
        (train.seed >= 0 and train.workers >= 0, "train.seed, train.workers", (train.seed, train.workers), "0 or more"),
        (train.weight_decay >= 0, "train.weight_decay", train.weight_decay, "0 or more"),
        (0 <= train.momentum < 1, "train.momentum", train.momentum, "0 up to, but not, 1"),
        (train.warmup_steps >= 0, "train.warmup_steps", train.warmup_steps, "0 or more"),
        (train.early_stop_rounds >= 0, "train.early_stop_rounds", train.early_stop_rounds, "0 or more"),
        (train.loss_epsilon > 0, "train.loss_epsilon", train.loss_epsilon, "above 0"),
        (
            min(train.supervision_weights, default=0) >= 0 and train.supervision_weights[0] > 0,
            "train.supervision_weights",
            train.supervision_weights,
            "0 or more, the first above 0",
        ),
        (
            len(train.class_weights) in (0, len(data.classes)) and min(train.class_weights, default=1) > 0,
            "train.class_weights",
            train.class_weights,
            "none, or one above 0 for each of data.classes",
        ),
        (0 <= train.average_decay < 1, "train.average_decay", train.average_decay, "0 up to, but not, 1"),
        (min(data.spacing_mm) >= 0.1, "data.spacing_mm", data.spacing_mm, "0.1 mm or more"),
        (augment.elastic_grid_mm > 0, "augment.elastic_grid_mm", augment.elastic_grid_mm, "above 0"),
        (0 < augment.lowres_zoom <= 1, "augment.lowres_zoom", augment.lowres_zoom, "above 0, up to 1"),
        (0 <= augment.scale_range < 1, "augment.scale_range", augment.scale_range, "0 up to, but not, 1"),
        (0 <= config.clean.keep_fraction <= 1, "clean.keep_fraction", config.clean.keep_fraction, "0 to 1"),
        (infer.window_batch >= 1, "infer.window_batch", infer.window_batch, "1 or more"),
        (infer.margin_mm >= 0, "infer.margin_mm", infer.margin_mm, "0 or more"),
        (
            0 <= infer.coarse_volume_ml[0] < infer.coarse_volume_ml[1],
            "infer.coarse_volume_ml",
            infer.coarse_volume_ml,
            "0 or more, the smaller first",
        ),
        (infer.coarse_gap_mm > 0, "infer.coarse_gap_mm", infer.coarse_gap_mm, "above 0"),
    ]
    for name, number in _numbers(config):
        rules.append((math.isfinite(number), name, number, "a finite number"))
        if name.startswith("augment."):
            rules.append((number >= 0, name, number, "0 or more"))
        if name.endswith("_probability"):
            rules.append((number <= 1, name, number, "0 to 1"))
    for holds, name, value, expected in rules:
        if not holds:
            raise _wrong_type("configuration", name, value, expected)


def _numbers(config: Config) -> list[tuple[str, float]]:
    """Every floating-point value with its key."""
    found = []
    for section, values in dataclasses.asdict(config).items():
        for key, value in values.items():
            items = value if isinstance(value, tuple) else (value,)
            found += [(f"{section}.{key}", item) for item in items if isinstance(item, float)]
    return found
