"""Outlines of a mask in a plane, as polygons that enclose exactly its pixels' centres."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import contourpy
import numpy as np
from numpy.typing import NDArray


def outlines(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Polygons around the pixels of a mask.

    Each runs halfway between the centres of pixels inside and outside (marching squares at 0.5, by contourpy), so a
    pixel belongs to the mask if and only if its centre lies in a polygon. Polygons do not overlap. A hole is joined to
    the outline around it by a channel of no width (the keyhole of DICOM PS3.3, C.8.8.6.3), so it is a hole for readers
    that fill each polygon as for those that combine all polygons of a plane by XOR.

    Parameters
    ----------
    mask : (rows, columns) bool array

    Returns
    -------
    list of (P, 2) arrays
        Corners as (column, row) in pixels, 0 being the centre of the first; the last is not the first again.
    """
    if not mask.any():
        return []
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    tracer = contourpy.contour_generator(
        z=np.pad(cut.astype(np.float64), 1), name="serial", fill_type=contourpy.FillType.OuterOffset
    )
    points, offsets = cast("tuple[list[NDArray[Any]], list[NDArray[Any]]]", tracer.filled(0.5, np.inf))
    found = []
    for polygon, starts in zip(points, offsets, strict=True):
        # Every corner is the middle between two pixels' centres: whole numbers in half pixels.
        doubled = np.rint(2 * np.asarray(polygon)).astype(np.int64)
        rings = [doubled[a : b - 1] for a, b in pairwise(starts)]
        keyhole = _simplified(_joined(rings[0], rings[1:]))
        found.append(keyhole / 2 + (columns[0] - 1, rows[0] - 1))
    return found


def _joined(outer: NDArray[np.int64], holes: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """One ring of an outline and its holes, each joined along a row of pixels to what lies to the left of it.

    Outlines cross a row of pixels at corners only, so the channel's other end is a corner, too; holes further left are
    joined before.
    """
    ring = outer
    for hole in sorted((_from_leftmost(hole) for hole in holes), key=lambda hole: int(hole[0, 0])):
        x, y = hole[0]
        on_row = np.flatnonzero((ring[:, 1] == y) & (ring[:, 0] < x))
        end = on_row[np.argmax(ring[on_row, 0])]
        ring = np.concatenate([ring[: end + 1], hole, hole[:1], ring[end:]])
    return ring


def _from_leftmost(hole: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.roll(hole, -int(np.argmin(hole[:, 0])), axis=0)


def _simplified(ring: NDArray[np.int64]) -> NDArray[np.int64]:
    """The ring without corners that lie on a straight way from the one before to the next."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    straight = (cross == 0) & ((before * after).sum(axis=1) > 0)
    return ring[~straight]
