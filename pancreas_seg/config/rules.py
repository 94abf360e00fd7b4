"""What the values of a configuration have to fulfil, each by itself and together."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from pancreas_seg.config.values import wrong_value

if TYPE_CHECKING:
    from pancreas_seg.config.config import Config


def check(config: Config) -> None:
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
        (0 < infer.threshold < 1, "infer.threshold", infer.threshold, "between 0 and 1"),
        (infer.max_memory_gb > 0, "infer.max_memory_gb", infer.max_memory_gb, "above 0"),
        (infer.margin_mm >= 0, "infer.margin_mm", infer.margin_mm, "0 or more"),
        (
            0 <= infer.coarse_volume_ml[0] < infer.coarse_volume_ml[1],
            "infer.coarse_volume_ml",
            infer.coarse_volume_ml,
            "0 or more, the smaller first",
        ),
        *(
            (low < high, f"verdict.{key}", (low, high), "the smaller first")
            for key, (low, high) in (("volume_ml", config.verdict.volume_ml), ("mean_hu", config.verdict.mean_hu))
        ),
        *(
            (0 <= getattr(config.verdict, key) <= 1, f"verdict.{key}", getattr(config.verdict, key), "0 to 1")
            for key in ("probability", "agreement", "stability", "tissue_share")
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
            raise wrong_value("configuration", name, value, expected)


def _numbers(config: Config) -> list[tuple[str, float]]:
    """Every floating-point value with its key."""
    found = []
    for section, values in dataclasses.asdict(config).items():
        for key, value in values.items():
            items = value if isinstance(value, tuple) else (value,)
            found += [(f"{section}.{key}", item) for item in items if isinstance(item, float)]
    return found
