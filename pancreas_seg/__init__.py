"""Pancreas segmentation in abdominal CT. Research software, not a medical device.

Public names load on first use, so that ``import pancreas_seg`` imports neither torch nor monai.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pancreas_seg._version import __version__

if TYPE_CHECKING:
    from pancreas_seg.config import Config
    from pancreas_seg.geometry import Geometry
    from pancreas_seg.inference.segmentation import Segmentation
    from pancreas_seg.inference.segmenter import Segmenter
    from pancreas_seg.io import Scan, read_ct, write_mask
    from pancreas_seg.network.attention_unet import AttentionUNet
    from pancreas_seg.training.trainer import train

_HOME = {
    "AttentionUNet": "pancreas_seg.network.attention_unet",
    "Config": "pancreas_seg.config",
    "Geometry": "pancreas_seg.geometry",
    "Scan": "pancreas_seg.io",
    "Segmentation": "pancreas_seg.inference.segmentation",
    "Segmenter": "pancreas_seg.inference.segmenter",
    "read_ct": "pancreas_seg.io",
    "train": "pancreas_seg.training.trainer",
    "write_mask": "pancreas_seg.io",
}

__all__ = [
    "AttentionUNet",
    "Config",
    "Geometry",
    "Scan",
    "Segmentation",
    "Segmenter",
    "__version__",
    "read_ct",
    "train",
    "write_mask",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
