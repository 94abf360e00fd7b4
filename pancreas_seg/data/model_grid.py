"""From a CT in HU to what the network sees: orientation RAS, the model grid's spacing, the HU window as 0 to 1.

Training and segmenting share this path; it needs no torch. Where the model grid is coarser, voxels are averaged:
picking single ones would pick a fine CT's noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.config import Config
from pancreas_seg.geometry import Box, Geometry
from pancreas_seg.io import Scan
from pancreas_seg.resampling import resample


def model_input(scan: Scan, config: Config, crop: Box | None = None) -> tuple[NDArray[np.float32], Geometry]:
    """The network's input for a scan: (1, I', J', K') float32 in 0..1, and the model grid it lies on.

    ``crop`` is a box of the model grid, to which both are limited.
    """
    model = model_grid(scan.geometry.as_ras(), config.data.spacing_mm)
    if crop is not None:
        model = model.crop(crop)
    return image_on_grid(scan.image, scan.geometry, model, config)[None], model


def model_grid(grid: Geometry, spacing_mm: Sequence[float]) -> Geometry:
    """The grid of another spacing that starts at the same voxel centre and reaches as far, to the nearest voxel."""
    steps = np.asarray(spacing_mm) / grid.spacing_mm
    i, j, k = (round((n - 1) / step) + 1 for n, step in zip(grid.shape, steps, strict=True))
    affine = grid.affine.copy()
    affine[:3, :3] *= steps
    return Geometry((i, j, k), affine)


def image_on_grid(image: NDArray[Any], source: Geometry, model: Geometry, config: Config) -> NDArray[np.float32]:
    """HU (I, J, K) on a model grid, the window's ends as 0 and 1, clipped.

    Interpolated linearly, or averaged where the model grid is coarser.
    """
    low, high = config.data.window_hu
    out = np.asarray(resample(image, source, model, "antialiased", fill=None), dtype=np.float32)
    out -= np.float32(low)
    out *= np.float32(1 / (high - low))
    return out.clip(0, 1, out=out)


def labels_on_grid(labels: NDArray[Any], source: Geometry, model: Geometry) -> NDArray[np.float32]:
    """Labels (I, J, K) on a model grid: for each voxel the value with the largest interpolated share.

    By the same interpolation as the image, so that labels of thick slices become no staircase.
    """
    out = np.zeros(model.shape, dtype=np.float32)
    largest = resample((labels == 0).astype(np.float32), source, model, "antialiased", fill=None)
    for value in np.unique(labels[labels != 0]):
        share = resample((labels == value).astype(np.float32), source, model, "antialiased", fill=None)
        more = share > largest
        out[more] = value
        largest[more] = share[more]
    return out
