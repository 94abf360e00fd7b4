"""Signed distances in millimetres, negative inside, and curves.

The table of a path has a row of x, y, z and radius for each of its points.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.interpolate import CubicSpline, PchipInterpolator

Array = NDArray[np.floating[Any]]
Axes = tuple[Array, Array, Array]

MARGIN_MM = 7.0
"""How far outside a tube its distance is worked out; farther away it reads MARGIN_MM."""


def smooth_max(a: Array, b: Array, k: float) -> Array:
    """Maximum of two distances with its edge rounded over about k mm."""
    h = np.clip(0.5 + (a - b) * np.float32(0.5 / k), 0, 1)
    return b + h * (a - b) + np.float32(k) * h * (1 - h)


def smooth_min(a: Array, b: Array, k: float) -> Array:
    """Minimum of two distances with its edge rounded over about k mm."""
    return -smooth_max(-a, -b, k)


def ellipsoid(x: Array, y: Array, z: Array, radii: Sequence[float]) -> Array:
    """Distance to an ellipsoid around the origin, exact at its surface to first order."""
    u, v, w = x / np.float32(radii[0]), y / np.float32(radii[1]), z / np.float32(radii[2])
    value = np.sqrt(u * u + v * v + w * w)
    slope = np.sqrt((u / radii[0]) ** 2 + (v / radii[1]) ** 2 + (w / radii[2]) ** 2).astype(np.float32)
    return np.asarray(value * (value - 1) / np.maximum(slope, 1e-6), dtype=np.float32)


def rounded_box(x: Array, y: Array, z: Array, half: Sequence[float], rounding: float) -> Array:
    """Distance to a box around the origin with rounded edges."""
    q = [np.abs(c) - np.float32(h - rounding) for c, h in zip((x, y, z), half, strict=True)]
    outside = np.sqrt(sum((np.maximum(c, 0) ** 2 for c in q), np.float32(0)))
    inside = np.minimum(np.maximum(np.maximum(q[0], q[1]), q[2]), 0)
    return np.asarray(outside + inside - np.float32(rounding), dtype=np.float32)


def one_piece(d: Array) -> Array:
    """The distance with every part but the largest pushed outside."""
    parts, n = ndimage.label(d < 0)
    if n > 1:
        largest = int(np.argmax(np.bincount(parts.ravel())[1:])) + 1
        d = np.where((parts > 0) & (parts != largest), np.float32(1.0), d)
    return d


def smooth_path(table: ArrayLike, step: float) -> NDArray[np.float64]:
    """A table of x, y, z, radius drawn out to a curve with a point about every `step` mm, shape (N, 4)."""
    knots = np.asarray(table, dtype=np.float64)
    s = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(knots[:, :3], axis=0), axis=1))])
    at = np.linspace(0.0, s[-1], max(2, int(np.ceil(s[-1] / step)) + 1))
    if len(knots) < 3:
        return np.stack([np.interp(at, s, column) for column in knots.T], axis=1)
    return np.column_stack([CubicSpline(s, knots[:, :3], bc_type="natural")(at), PchipInterpolator(s, knots[:, 3])(at)])


def tube_distance(axes: Axes, paths: Sequence[NDArray[np.float64]], stretch: NDArray[np.float64]) -> Array:
    """Distance to tubes on the grid of three axes; `stretch` makes their cross-section larger along an axis."""
    out = np.full([len(a) for a in axes], MARGIN_MM, np.float32)
    for path in paths:
        for start, stop in pairwise(path):
            _lower_to_segment(out, axes, start, stop, stretch)
    return out


def _lower_to_segment(
    out: Array, axes: Axes, start: NDArray[np.float64], stop: NDArray[np.float64], stretch: NDArray[np.float64]
) -> None:
    """Lower distances to those of one straight piece of a tube."""
    reach = (max(start[3], stop[3]) + MARGIN_MM) * stretch
    low, high = np.minimum(start[:3], stop[:3]) - reach, np.maximum(start[:3], stop[:3]) + reach
    cut = [slice(*np.searchsorted(a, (low[k], high[k]))) for k, a in enumerate(axes)]
    if any(s.stop <= s.start for s in cut):
        return
    along = ((stop[:3] - start[:3]) / stretch).astype(np.float32)
    length2 = np.float32(max(float(along @ along), 1e-6))
    x, y, z = ((a[s] - np.float32(p)) / np.float32(f) for a, s, p, f in zip(axes, cut, start, stretch, strict=False))
    x, y, z = x[:, None, None], y[None, :, None], z[None, None, :]
    dot = x * along[0] + y * along[1] + z * along[2]
    t = np.clip(dot / length2, 0, 1)
    squared = (x * x + y * y + z * z) + t * (t * length2 - 2 * dot)
    distance = np.sqrt(np.maximum(squared, 0)) - (np.float32(start[3]) + t * np.float32(stop[3] - start[3]))
    view = out[cut[0], cut[1], cut[2]]
    np.minimum(view, distance, out=view)
