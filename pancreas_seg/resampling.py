"""The one way to move an array from one grid to another."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.geometry import Geometry

_ROWS_AT_ONCE = 16

Interpolation = Literal["nearest", "linear", "antialiased"]


def resample(
    array: NDArray[Any], source: Geometry, target: Geometry, interpolation: Interpolation, fill: float | None = 0.0
) -> NDArray[Any]:
    """Bring an array from one grid to another.

    Where the axes of both grids are parallel (any permutation, flip, shift and scale: every grid that this package
    makes from an input), each axis is done by itself, which is exact and fast. Other pairs go through
    `scipy.ndimage.affine_transform`.

    Parameters
    ----------
    array : (I, J, K) array
        Values on ``source``.
    source, target : Geometry
    interpolation : {"nearest", "linear", "antialiased"}
        "nearest" keeps the dtype; the others work in float32. "antialiased" is linear interpolation where the target
        is finer; where it is coarser, the linear interpolant is averaged over about a target voxel, so that noise is
        averaged and not sampled. It needs parallel axes.
    fill : float or None
        Value of target voxels whose centre lies outside the source's voxels; None repeats the source's border.

    Returns
    -------
    (I', J', K') array
        Values on ``target``.

    Raises
    ------
    ValueError
        If the array does not fit its grid, or "antialiased" is asked for between grids that are turned against each
        other.
    """
    if array.shape != source.shape:
        raise ValueError(f"array of shape {array.shape} does not lie on a grid of shape {source.shape}")
    to_source = np.linalg.inv(source.affine) @ target.affine
    matrix, offset = to_source[:3, :3], to_source[:3, 3]
    axis_of = [int(np.argmax(np.abs(row))) for row in matrix]
    stray = np.abs(matrix) * np.asarray(target.shape)
    stray[range(3), axis_of] = 0.0
    if sorted(axis_of) != [0, 1, 2] or stray.max() > 1e-3:
        if interpolation == "antialiased":
            raise ValueError("antialiased resampling needs grids with parallel axes")
        return _resample_oblique(array, matrix, offset, target.shape, interpolation, fill)

    out, positions = array, []
    for axis in range(3):
        target_axis = axis_of[axis]
        position = matrix[axis, target_axis] * np.arange(target.shape[target_axis]) + offset[axis]
        out, position = _needed(out, axis, position)
        positions.append(position)
    # The axis that shrinks most comes first; of like ones that with the larger steps in memory, which is faster.
    ratio = [round(len(position) / n, 1) for position, n in zip(positions, out.shape, strict=True)]
    for axis in sorted(range(3), key=lambda a: (ratio[a], -abs(array.strides[a]))):
        out = _resample_axis(out, axis, positions[axis], interpolation, fill)
    out = np.transpose(out, np.argsort(axis_of))
    return np.ascontiguousarray(out, dtype=array.dtype if interpolation == "nearest" else np.float32)


def _needed(array: NDArray[Any], axis: int, position: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The part of an array that values at some positions along an axis depend on, and the positions in it."""
    step = abs(position[1] - position[0]) if len(position) > 1 else 1.0
    reach = int(np.ceil(step)) + 2
    n = array.shape[axis]
    start = int(np.clip(np.floor(position.min()) - reach, 0, n - 1))
    stop = int(np.clip(np.ceil(position.max()) + reach + 1, start + 1, n))
    if (start, stop) == (0, n):
        return array, position
    where = (slice(None),) * axis + (slice(start, stop),)
    return array[where], position - start


def _resample_axis(
    array: NDArray[Any], axis: int, position: NDArray[np.float64], interpolation: Interpolation, fill: float | None
) -> NDArray[Any]:
    n = array.shape[axis]
    nearest = np.floor(position + 0.5).astype(np.intp)
    # A hair of tolerance keeps voxels that lie on the very edge inside despite rounding.
    outside = (position < -0.5 - 1e-4) | (position > n - 0.5 + 1e-4)
    if interpolation == "antialiased" and len(position) > 1 and abs(position[1] - position[0]) > 1 + 1e-6:
        out = _multiplied(_averaging_weights(n, position), array, axis)
    elif interpolation == "nearest" or not (position - np.floor(position)).any():
        out = array.take(nearest.clip(0, n - 1), axis=axis)
    else:
        out = _multiplied(_linear_weights(n, position), array, axis)
    if fill is not None and outside.any():
        where: list[Any] = [slice(None)] * array.ndim
        where[axis] = outside
        out[tuple(where)] = fill
    return out


def _linear_weights(n: int, position: NDArray[np.float64]) -> NDArray[np.float32]:
    """(m, n) weights of linear interpolation at m positions between n voxels; the border is repeated."""
    lower = np.floor(position).astype(np.intp)
    upper_share = position - lower
    weights = np.zeros((len(position), n))
    rows = np.arange(len(position))
    np.add.at(weights, (rows, lower.clip(0, n - 1)), 1 - upper_share)
    np.add.at(weights, (rows, (lower + 1).clip(0, n - 1)), upper_share)
    return weights.astype(np.float32)


def _averaging_weights(n: int, position: NDArray[np.float64]) -> NDArray[np.float32]:
    """(m, n) weights that bring n voxels to m positions further apart; the border is repeated.

    The linear interpolant is averaged over a box of √(step² - 1) voxels: nothing at a step of 1, all voxels with like
    weight at large ones, and exact for whatever is linear.
    """
    width = np.sqrt((position[1] - position[0]) ** 2 - 1)
    reach = int(np.ceil(width / 2)) + 1
    taps = np.floor(position)[:, None] + np.arange(-reach, reach + 2)
    distance = position[:, None] - taps
    shares = (_integrated_hat(distance + width / 2) - _integrated_hat(distance - width / 2)) / width
    weights = np.zeros((len(position), n))
    rows = np.broadcast_to(np.arange(len(position))[:, None], taps.shape)
    np.add.at(weights, (rows, taps.astype(np.intp).clip(0, n - 1)), shares)
    return weights.astype(np.float32)


def _integrated_hat(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integral from minus infinity to x of max(0, 1 - |t|)."""
    x = x.clip(-1, 1)
    return np.asarray(0.5 + x - 0.5 * x * np.abs(x))


def _multiplied(weights: NDArray[np.float32], array: NDArray[Any], axis: int) -> NDArray[np.float32]:
    """Weights (m, n) applied along an axis of length n of a 3D array of any number type.

    A few rows of the weights at a time: only columns near the diagonal are not 0, and only the voxels of these are held
    in float32 besides the result.
    """
    if array.strides[0] < array.strides[2]:
        return _multiplied(weights, array.T, 2 - axis).T
    shape = list(array.shape)
    shape[axis] = len(weights)
    out = np.empty(shape, dtype=np.float32)
    for first in range(0, len(weights), _ROWS_AT_ONCE):
        rows = weights[first : first + _ROWS_AT_ONCE]
        used = np.flatnonzero(rows.any(axis=0))
        columns = slice(int(used[0]), int(used[-1]) + 1)
        block = rows[:, columns]
        part = np.ascontiguousarray(array[(slice(None),) * axis + (columns,)], dtype=np.float32)
        where = (slice(None),) * axis + (slice(first, first + len(rows)),)
        if axis == 0:
            out[where] = (block @ part.reshape(len(part), -1)).reshape(len(rows), *part.shape[1:])
        elif axis == 1:
            np.matmul(block, part, out=out[where])
        else:
            out[where] = part @ block.T
    return out


def _resample_oblique(
    array: NDArray[Any],
    matrix: NDArray[np.float64],
    offset: NDArray[np.float64],
    shape: tuple[int, int, int],
    interpolation: Interpolation,
    fill: float | None,
) -> NDArray[Any]:
    from scipy.ndimage import affine_transform

    order = 0 if interpolation == "nearest" else 1
    values = array if interpolation == "nearest" else array.astype(np.float32, copy=False)
    mode = "nearest" if fill is None else "grid-constant"
    moved = affine_transform(values, matrix, offset, shape, order=order, mode=mode, cval=fill or 0.0)
    return np.asarray(moved)
