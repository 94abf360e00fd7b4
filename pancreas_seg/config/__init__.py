"""All settings in one value: frozen dataclasses, TOML in and out, presets, and a fingerprint.

A preset or a configuration file states only how it differs from the defaults. The text form travels inside every
weights file, so `segment` needs the weights and nothing else.
"""

from pancreas_seg.config.config import Config
from pancreas_seg.config.presets import load_config, load_preset, preset_names
from pancreas_seg.config.sections import (
    IGNORE,
    AugmentConfig,
    CleanConfig,
    DataConfig,
    InferConfig,
    NetworkConfig,
    TrainConfig,
    VerdictConfig,
)

__all__ = [
    "IGNORE",
    "AugmentConfig",
    "CleanConfig",
    "Config",
    "DataConfig",
    "InferConfig",
    "NetworkConfig",
    "TrainConfig",
    "VerdictConfig",
    "load_config",
    "load_preset",
    "preset_names",
]
