"""A whole volume through the network: windows of it one after the other, blended where they overlap.

Notation: C channels of the input, K of the output; (I, J, K') is the volume, ``*S`` a window's spatial axes, three for
3D patches, the first two for slices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.config import Config
from pancreas_seg.geometry import Box

Progress = Callable[[int, int], None]
"""Called with windows done and windows in all."""

Predictor = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Gives (N, K, *S) for windows (N, C, *S)."""

_SLICES_AT_ONCE = 8


@dataclass(frozen=True)
class Windows:
    """Windows of one size that cover a box of a volume.

    Parameters
    ----------
    size : (3,) ints
        Voxels; for slices the last is 1.
    starts : tuple of (3,) ints
        First voxel of each window.
    """

    size: tuple[int, int, int]
    starts: tuple[tuple[int, int, int], ...]

    def slices(self, start: Sequence[int]) -> tuple[slice, slice, slice]:
        i, j, k = (slice(a, a + n) for a, n in zip(start, self.size, strict=True))
        return i, j, k


def plan_windows(shape: Sequence[int], config: Config, inside: Box | None = None) -> Windows:
    """Windows of ``data.patch_size`` for a volume that is at least as large, or for a box of it.

    Along each axis there are as many as ``infer.overlap`` takes at least, spread evenly, the first and the last flush
    with the ends.
    """
    box = inside or Box((0, 0, 0), (int(shape[0]), int(shape[1]), int(shape[2])))
    patch = config.data.patch_size
    wanted = (*patch, 1) if len(patch) == 2 else patch
    size = [int(w) for w in wanted]
    along = []
    for axis, window in enumerate(size):
        # A window is never smaller than the patch where the volume has room, so the box may have to give way.
        start = min(box.start[axis], shape[axis] - window)
        stop = max(box.stop[axis], start + window)
        step = max(1, int(window * (1 - config.infer.overlap))) if window > 1 else 1
        n = 1 + math.ceil((stop - start - window) / step)
        along.append([int(start + round(v)) for v in np.linspace(0, stop - start - window, n)])
    return Windows((size[0], size[1], size[2]), tuple((i, j, k) for k, j, i in product(*reversed(along))))


def sweep(
    predict: Predictor,
    image: NDArray[np.float32],
    config: Config,
    n_channels: int,
    progress: Progress | None = None,
    inside: Box | None = None,
) -> NDArray[np.float32]:
    """What a predictor says of a preprocessed volume, blended over overlapping windows.

    A volume smaller than a window is padded with 0 on both sides. Windows without a voxel above 0 (all of it below the
    HU window: air) are left out.

    Parameters
    ----------
    predict : callable
    image : (1, I, J, K') array
        In 0..1 on the model grid.
    config : Config
        Window size (``data.patch_size``), overlap, blending, ``infer.window_batch``.
    n_channels : int
        K.
    progress : callable, optional
    inside : Box, optional
        Voxels to look at; by default all.

    Returns
    -------
    (K, I, J, K') float32 array
        0 where no window was.
    """
    before, after = _missing(image.shape[1:], config)
    image = np.pad(image, ((0, 0), *zip(before, after, strict=True))) if any(after) else image
    windows = plan_windows(image.shape[1:], config, None if inside is None else inside.moved(before))
    slices = config.network.spatial_dims == 2
    volume = neighbour_channels(image, config.data.neighbour_slices) if slices else image
    starts = [start for start in windows.starts if image[(0, *windows.slices(start))].any()]
    weight = _blending_weight(windows.size, config.infer.blend)
    out = np.zeros((n_channels, *image.shape[1:]), dtype=np.float32)
    total = np.zeros(image.shape[1:], dtype=np.float32)
    done = 0
    for batch in _batches(starts, config.infer.window_batch * (_SLICES_AT_ONCE if slices else 1)):
        given = np.stack([volume[(slice(None), *windows.slices(start))] for start in batch])
        found = predict(given[..., 0] if slices else given)
        for start, values in zip(batch, found[..., None] if slices else found, strict=True):
            where = windows.slices(start)
            out[(slice(None), *where)] += values * weight
            total[where] += weight
        done += len(batch)
        if progress is not None:
            progress(done, len(starts))
    if progress is not None and not starts:
        progress(1, 1)
    np.divide(out, total, out=out, where=total > 0)
    end = [n - a for n, a in zip(image.shape[1:], after, strict=True)]
    return out[:, before[0] : end[0], before[1] : end[1], before[2] : end[2]]


def _missing(shape: Sequence[int], config: Config) -> tuple[list[int], list[int]]:
    """Voxels to add in front of and behind a volume's axes that are shorter than a window, as training adds them."""
    size = config.data.patch_size
    missing = [max(0, int(w) - int(n)) for n, w in zip(shape, (*size, *[0] * (3 - len(size))), strict=True)]
    return [m // 2 for m in missing], [m - m // 2 for m in missing]


def neighbour_channels(image: NDArray[np.float32], neighbours: int) -> NDArray[np.float32]:
    """(1, I, J, K) to (1 + 2·neighbours, I, J, K): channel c at slice k is slice k + c - neighbours, zero outside."""
    if neighbours == 0:
        return image
    n = image.shape[-1]
    padded = np.pad(image, ((0, 0), (0, 0), (0, 0), (neighbours, neighbours)))
    return np.concatenate([padded[..., c : c + n] for c in range(1 + 2 * neighbours)])


def _batches(starts: list[tuple[int, int, int]], n: int) -> Iterator[list[tuple[int, int, int]]]:
    for first in range(0, len(starts), n):
        yield starts[first : first + n]


def _blending_weight(size: Sequence[int], blend: str) -> NDArray[np.float32]:
    """How much each voxel of a window counts: alike, or by a Gaussian of an eighth of the window."""
    weight = np.ones(tuple(size), dtype=np.float64)
    if blend == "gaussian":
        for axis, n in enumerate(size):
            if n > 1:
                x = (np.arange(n) - (n - 1) / 2) / (0.125 * n)
                weight *= np.exp(-0.5 * x**2).reshape([-1 if a == axis else 1 for a in range(len(size))])
    return np.asarray(weight.clip(1e-3), dtype=np.float32)
