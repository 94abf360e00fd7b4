"""Where voxels lie in the patient: grids, boxes, and the one way to move an array from one grid to another.

World coordinates are RAS millimetres: x grows towards the patient's Right, y towards Anterior, z towards Superior, as
in the NIfTI standard. Voxel (0, 0, 0) has its centre at ``affine[:3, 3]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pancreas_seg.errors import InputError

SHEAR_TOLERANCE = 1e-3
"""Largest |cosine| between two voxel axes that still counts as a right angle (0.06 degrees)."""

_HUGE = 1e9


@dataclass(frozen=True)
class Box:
    """A block of voxels: ``start`` is inside, ``stop`` is outside, as in Python slices."""

    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index that cuts the box out of an array whose last three axes are the grid."""
        a, b = self.start, self.stop
        return slice(a[0], b[0]), slice(a[1], b[1]), slice(a[2], b[2])

    @property
    def shape(self) -> tuple[int, int, int]:
        return _triple(b - a for a, b in zip(self.start, self.stop, strict=True))

    def grown(self, voxels: Sequence[int], shape: Sequence[int]) -> Box:
        """The box with a margin on every side, kept inside a grid of the given shape."""
        return Box(
            _triple(max(0, a - v) for a, v in zip(self.start, voxels, strict=True)),
            _triple(min(n, b + v) for b, v, n in zip(self.stop, voxels, shape, strict=True)),
        )

    def moved(self, by: Sequence[int]) -> Box:
        """The box moved by numbers of voxels."""
        return Box(
            _triple(a + n for a, n in zip(self.start, by, strict=True)),
            _triple(b + n for b, n in zip(self.stop, by, strict=True)),
        )

    @staticmethod
    def around(mask: NDArray[Any]) -> Box | None:
        """The smallest box that holds every true voxel of a 3D mask, or None for an empty mask."""
        start, stop = [], []
        for axis in range(3):
            others = tuple(a for a in range(3) if a != axis)
            hit = np.flatnonzero(mask.any(axis=others))
            if hit.size == 0:
                return None
            start.append(int(hit[0]))
            stop.append(int(hit[-1]) + 1)
        return Box(_triple(start), _triple(stop))


@dataclass(frozen=True, eq=False)
class Geometry:
    """A voxel grid in the patient.

    Parameters
    ----------
    shape : (3,) ints
        Number of voxels along each axis.
    affine : (4, 4) array
        Voxel indices to RAS millimetres.

    Raises
    ------
    InputError
        If a dimension is empty, the affine is not finite or not invertible, or its axes are not at right angles.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        shape = _triple(self.shape)
        affine = np.array(self.affine, dtype=np.float64)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)
        affine.setflags(write=False)
        _check(shape, affine)

    @cached_property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along each voxel axis."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(np.prod(self.spacing_mm)) / 1000.0

    @cached_property
    def ras_axes(self) -> tuple[tuple[int, int], ...]:
        """For each of Right, Anterior, Superior: the voxel axis closest to it, and +1 or -1 for its direction.

        The assignment that maximises the summed |cosine| over all six permutations, so that an oblique grid gets each
        axis exactly once.
        """
        cosines = self.affine[:3, :3] / np.asarray(self.spacing_mm)
        best = max(
            ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)),
            key=lambda order: sum(abs(cosines[world, axis]) for world, axis in enumerate(order)),
        )
        return tuple((axis, 1 if cosines[world, axis] > 0 else -1) for world, axis in enumerate(best))

    @property
    def orientation(self) -> str:
        """Three letters that say where each voxel axis points to, such as ``"LPS"``."""
        letters = [""] * 3
        for (axis, sign), pair in zip(self.ras_axes, ("RL", "AP", "SI"), strict=True):
            letters[axis] = pair[0] if sign > 0 else pair[1]
        return "".join(letters)

    def as_ras(self) -> Geometry:
        """The same voxels with their axes in the order and direction closest to Right, Anterior, Superior."""
        axes = [axis for axis, _ in self.ras_axes]
        start = [0.0, 0.0, 0.0]
        affine = self.affine.copy()
        for world, (axis, sign) in enumerate(self.ras_axes):
            affine[:3, world] = sign * self.affine[:3, axis]
            start[axis] = 0.0 if sign > 0 else self.shape[axis] - 1.0
        affine[:3, 3] = self.world(start)
        return Geometry(_triple(self.shape[axis] for axis in axes), affine)

    def world(self, index: ArrayLike) -> NDArray[np.float64]:
        """RAS millimetres of voxel indices, shape (..., 3)."""
        return np.asarray(index, dtype=np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def index(self, world_mm: ArrayLike) -> NDArray[np.float64]:
        """Fractional voxel indices of RAS millimetres, shape (..., 3)."""
        inverse = np.linalg.inv(self.affine)
        return np.asarray(world_mm, dtype=np.float64) @ inverse[:3, :3].T + inverse[:3, 3]

    def corners_mm(self) -> NDArray[np.float64]:
        """RAS millimetres of the eight corner voxels' centres, shape (8, 3)."""
        ends = np.stack(np.meshgrid(*[(0, n - 1) for n in self.shape], indexing="ij"), axis=-1)
        return self.world(ends.reshape(8, 3))

    def crop(self, box: Box) -> Geometry:
        """The part of the grid inside a box."""
        affine = self.affine.copy()
        affine[:3, 3] = self.world(box.start)
        return Geometry(box.shape, affine)

    def box_mm(self, box: Box) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Lowest and highest RAS coordinate that the box's voxels (with their full extent) reach."""
        low, high = np.asarray(box.start) - 0.5, np.asarray(box.stop) - 0.5
        corners = self.world([[(low, high)[b][a] for a, b in enumerate(bits)] for bits in np.ndindex(2, 2, 2)])
        (x0, y0, z0), (x1, y1, z1) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        return (x0, y0, z0), (x1, y1, z1)

    def distance_mm(self, other: Geometry) -> float:
        """Largest distance between the same corner in both grids; infinite if the shapes differ."""
        if self.shape != other.shape:
            return float("inf")
        return float(np.linalg.norm(self.corners_mm() - other.corners_mm(), axis=1).max())

    def same_grid(self, other: Geometry, tolerance_mm: float = 1e-2) -> bool:
        """True if both grids have the same shape and no corner differs by more than the tolerance."""
        return self.distance_mm(other) <= tolerance_mm


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


def _check(shape: tuple[int, int, int], affine: NDArray[np.float64]) -> None:
    if min(shape) < 1:
        raise InputError(
            "input.empty",
            where="grid",
            found=f"shape {shape}",
            expected="at least one voxel along each axis",
            advice="Export the image again.",
        )
    if affine.shape != (4, 4) or not np.abs(affine).max() < _HUGE or not np.allclose(affine[3], (0, 0, 0, 1)):
        raise InputError(
            "input.affine_invalid",
            where="grid",
            found=f"affine {affine.tolist()}",
            expected=f"a (4, 4) matrix of numbers below {_HUGE:g} with last row 0 0 0 1",
            advice="Export the image again; its header does not say where the voxels lie.",
        )
    columns = affine[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    if lengths.min() < 1e-4 or abs(np.linalg.det(columns / lengths)) < 1e-3:
        raise InputError(
            "input.affine_singular",
            where="grid",
            found=f"affine {affine[:3].round(4).tolist()}",
            expected="three independent voxel axes with a spacing above 0",
            advice="Export the image again; its header does not say where the voxels lie.",
        )
    cosines = columns / lengths
    shear = np.abs(cosines.T @ cosines - np.eye(3)).max()
    if shear > SHEAR_TOLERANCE:
        raise InputError(
            "input.affine_sheared",
            where="grid",
            found=f"voxel axes off a right angle (largest cosine {shear:.4f})",
            expected=f"voxel axes at right angles (cosine up to {SHEAR_TOLERANCE})",
            advice="A tilted gantry does this: resample the image to a rectangular grid first.",
        )


def _triple(values: Sequence[int] | Iterator[int]) -> tuple[int, int, int]:
    a, b, c = (int(v) for v in values)
    return a, b, c
