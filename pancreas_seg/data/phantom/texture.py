"""Random fields and random streams."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.data.phantom.shapes import Array

FIELD_MM = 250.0
"""Random fields cover this distance from the origin to both sides and go on unchanged beyond."""


def stream(seed: Sequence[int], name: str) -> np.random.Generator:
    """Random numbers that depend on the seed and a name alone."""
    return np.random.default_rng([*seed, zlib.crc32(name.encode())])


class Noise:
    """A smooth random field of mean 0 and deviation 1 whose detail is about `step` mm wide."""

    def __init__(self, rng: np.random.Generator, step: float) -> None:
        self.step = step
        self.n = int(np.ceil(2 * FIELD_MM / step)) + 4
        # Mean of the summed squared weights of a cubic B-spline, in 3D.
        self.lattice = rng.standard_normal((self.n,) * 3, dtype=np.float32) / np.float32((151 / 315) ** 1.5)

    def on(self, axes: Sequence[Array]) -> Array:
        """Values on the grid of three axes, shape (len(x), len(y), len(z))."""
        out, weights = self.lattice, []
        for axis, position in enumerate(axes):
            w = _spline_weights(position, self.step, self.n)
            used = np.flatnonzero(w.any(axis=0))
            span = slice(used[0], used[-1] + 1) if used.size else slice(0, 1)
            weights.append(w[:, span])
            out = out[(slice(None),) * axis + (span,)]
        wx, wy, wz = weights
        out = (wx @ np.ascontiguousarray(out).reshape(out.shape[0], -1)).reshape(len(wx), *out.shape[1:])
        return np.asarray((wy @ out) @ wz.T, dtype=np.float32)

    def at(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values at points of shape (N, 3)."""
        wx, wy, wz = (_spline_weights(points[:, k].astype(np.float32), self.step, self.n) for k in range(3))
        return np.einsum("pi,pj,pk,ijk->p", wx, wy, wz, self.lattice, optimize=True).astype(np.float64)


def _spline_weights(position: Array, step: float, n: int) -> Array:
    """Weights of n cubic B-splines, `step` apart and centred on 0, at each position; shape (len(position), n)."""
    t = np.clip(position.astype(np.float64) / step + (n - 1) / 2, 1.0, n - 2.0001)
    cell = t.astype(np.intp)
    f = t - cell
    parts = ((1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3)
    weights = np.zeros((len(position), n), np.float32)
    for k, part in enumerate(parts):
        weights[np.arange(len(position)), cell + k - 1] = part / 6.0
    return weights
