"""Where voxels lie in the patient: grids and boxes.

World coordinates are RAS millimetres: x grows towards the patient's Right, y towards Anterior, z towards Superior, as
in the NIfTI standard. Voxel (0, 0, 0) has its centre at ``affine[:3, 3]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

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
