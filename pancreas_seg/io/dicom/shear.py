"""Slices of a tilted gantry, brought to a rectangular grid."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.geometry import Geometry
from pancreas_seg.io.dicom.stack import Stack

AIR_HU = -1000.0
"""Value of voxels that no slice reaches."""


def shear_back(image: NDArray[Any], tilted: Stack) -> tuple[NDArray[np.float32], Geometry]:
    """Shift each slice in its own plane so that the stack's third axis becomes the slices' normal.

    Voxels stay in the plane of their slice, so only the shift, by linear interpolation, touches values: whole voxels
    are moved exactly. The grid grows so that nothing is lost; what no slice reaches becomes AIR_HU.

    Parameters
    ----------
    image : (I, J, K) array
        HU, slices as they were stored.
    tilted : Stack

    Returns
    -------
    (I', J', K) array and Geometry
    """
    affine = tilted.affine.copy()
    in_plane, step = affine[:3, :2], affine[:3, 2]
    per_slice = np.linalg.lstsq(in_plane, step, rcond=None)[0]
    affine[:3, 2] = step - in_plane @ per_slice
    n = image.shape[2]
    ends = np.stack([np.zeros(2), (n - 1) * per_slice])
    low = np.floor(ends.min(axis=0) + 1e-6).astype(int)
    grown = np.ceil(ends.max(axis=0) - 1e-6).astype(int) - low
    shape = (image.shape[0] + int(grown[0]), image.shape[1] + int(grown[1]), n)
    affine[:3, 3] += in_plane @ low
    out = np.empty(shape[::-1], np.float32).transpose(2, 1, 0)
    for k in range(n):
        shift = k * per_slice - low
        plane = image[:, :, k].astype(np.float32)
        out[:, :, k] = _shifted(_shifted(plane, shape[0], shift[0]).T, shape[1], shift[1]).T
    return out, Geometry(shape, affine)


def _shifted(plane: NDArray[Any], length: int, shift: float) -> NDArray[np.float32]:
    """Rows of a plane at new places: row r of the outcome is row r - shift of the plane."""
    whole = int(np.floor(shift + 1e-6))
    share = np.float32(max(0.0, shift - whole))
    out = np.full((length, plane.shape[1]), AIR_HU, np.float32)
    n = len(plane)
    if share < 1e-5:
        out[whole : whole + n] = plane
    else:
        out[whole + 1 : whole + n] = plane[1:] + share * (plane[:-1] - plane[1:])
    return out
