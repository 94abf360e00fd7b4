"""What is done to a mask after the network: small components go, holes are filled.

The largest component alone is too little: an atrophic or fatty pancreas is often found in two pieces of like size, and
dropping one would halve it without a word. Several pieces are reported by the verdict instead.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pancreas_seg.config import CleanConfig

_FULL = np.ones((3, 3, 3), dtype=bool)


def clean_mask(mask: NDArray[np.uint8], voxel_ml: float, settings: CleanConfig) -> NDArray[np.uint8]:
    """Clean each label of an (I, J, K) mask by itself; components are 26-connected.

    In this order: components below ``minimum_volume_ml``, or below ``keep_fraction`` of the largest, go; with
    ``fill_holes`` background that a label encloses becomes that label.
    """
    out = np.zeros_like(mask)
    for label in np.unique(mask[mask > 0]):
        part = _kept(mask == label, voxel_ml, settings)
        if settings.fill_holes:
            part = _filled(part) & ((mask == 0) | part)
        out[part] = label
    return out


def count_components(mask: NDArray[np.bool_]) -> int:
    """26-connected components of a binary mask."""
    return int(ndimage.label(mask, _FULL)[1])


def _filled(part: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask with what it encloses: background that is not connected (6 neighbours) to the edge of the array.

    What scipy's binary_fill_holes gives, by one labelling in place of a dilation per voxel of depth.
    """
    background, n = ndimage.label(~part)
    outside = np.zeros(n + 1, dtype=bool)
    for axis in range(3):
        for end in (0, -1):
            outside[np.unique(background.take(end, axis=axis))] = True
    outside[0] = False
    return ~outside[background]


def _kept(part: NDArray[np.bool_], voxel_ml: float, settings: CleanConfig) -> NDArray[np.bool_]:
    components, n = ndimage.label(part, _FULL)
    sizes = np.bincount(components.ravel(), minlength=n + 1)
    sizes[0] = 0
    keep = (sizes * voxel_ml >= settings.minimum_volume_ml) & (sizes >= settings.keep_fraction * sizes.max())
    keep[0] = False
    return np.asarray(keep[components])
