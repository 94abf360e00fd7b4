"""Synthetic CTs: a labelled CT, deformed until its organ has the shape of somebody else's.

Few labelled CTs show few shapes of an organ, while masks of an organ are often to be had without their CTs. The
deformation between the two masks is smooth and reaches beyond the organ, so its neighbours make way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from pancreas_seg.errors import InputError
from pancreas_seg.geometry import Box, Geometry
from pancreas_seg.resampling import resample

WORKING_MM = 5.0
"""Voxel size at which the deformation is found."""

REACH_MM = 40.0
"""How far from the organ the deformation reaches; at that distance it has faded out."""

VOLUME_RATIO = (0.5, 2.0)
"""Other shapes are scaled until their volume is so many times the organ's own."""

_DISTANCE_MM = 30.0
_ITERATIONS = 60
_SMOOTHING_VOXELS = 1.5
_VOLUME_CHANGE = (0.15, 6.0)


@dataclass(frozen=True)
class ShapeTransfer:
    """A deformation on a grid.

    Attributes
    ----------
    grid : Geometry
        RAS, `WORKING_MM` voxels, around the organ; elsewhere nothing moves.
    field_mm : (3, I, J, K) float32 array
        What a voxel of the new CT shows is found so far away in the old one, along Right, Anterior and Superior.
    overlap : float
        Dice of the deformed organ and the shape that was asked for.
    """

    grid: Geometry
    field_mm: NDArray[np.float32]
    overlap: float

    def apply(self, array: NDArray[Any], geometry: Geometry, labels: bool) -> NDArray[Any]:
        """Deform an array (I, J, K) on a RAS grid: label maps by the nearest value, images by cubic splines."""
        moved = np.indices(geometry.shape, dtype=np.float32)
        spacing = geometry.spacing_mm
        for axis, part in enumerate(self.field_mm):
            moved[axis] += resample(part, self.grid, geometry, "linear", fill=0.0) / np.float32(spacing[axis])
        if labels:
            out: NDArray[Any] = ndimage.map_coordinates(array, moved, order=0, mode="nearest")
            return out
        smooth = ndimage.map_coordinates(array.astype(np.float32), moved, order=3, mode="nearest")
        return smooth.clip(array.min(), array.max()).astype(np.float32)


def shape_transfer(
    organ: NDArray[np.bool_],
    geometry: Geometry,
    other: NDArray[np.bool_],
    other_geometry: Geometry,
    amount: float = 1.0,
) -> ShapeTransfer:
    """Find the deformation that gives an organ another one's shape, centre upon centre.

    Signed distances of both masks are registered by diffeomorphic demons (Vercauteren et al. 2009). Where the result
    would squeeze or stretch a place beyond what an abdomen might do, all of it is weakened.

    Parameters
    ----------
    organ, other : (I, J, K) bool arrays
        Each on its own grid; both grids in RAS.
    geometry, other_geometry : Geometry
    amount : float
        Share of the way to the other shape.

    Raises
    ------
    InputError
        If a mask is empty or a grid is not in RAS.
    """
    for mask, grid, name in ((organ, geometry, "organ"), (other, other_geometry, "other")):
        if not mask.any() or not _is_ras(grid):
            raise InputError(
                "input.shape_transfer",
                where=name,
                found="an empty mask" if not mask.any() else "a grid in another orientation",
                expected="a mask with voxels, on a RAS grid",
                advice="Bring both masks into RAS first, and leave out CTs without the organ.",
            )
    grid = _working_grid(organ, geometry)
    here = resample(organ.astype(np.float32), geometry, grid, "antialiased") > 0.5
    scale = _scale(organ, geometry, other, other_geometry)
    centred = other_geometry.affine.copy()
    centred[:3, :3] *= scale
    centred[:3, 3] += _centre(organ, geometry) - _centre(other, Geometry(other.shape, centred))
    there = resample(other.astype(np.float32), Geometry(other.shape, centred), grid, "antialiased") > 0.5
    field = amount * _faded(_registered(here, there), here | there)
    while not _plausible(field):
        field *= 0.8
    moved = np.indices(grid.shape, dtype=np.float32) + field / WORKING_MM
    reached = ndimage.map_coordinates(here.astype(np.float32), moved, order=1, mode="nearest") > 0.5
    overlap = 2.0 * float((reached & there).sum()) / float(reached.sum() + there.sum())
    return ShapeTransfer(grid, field.astype(np.float32), overlap)


def _is_ras(grid: Geometry) -> bool:
    return np.allclose(grid.affine[:3, :3], np.diag(grid.spacing_mm), atol=1e-3 * min(grid.spacing_mm))


def _centre(mask: NDArray[np.bool_], grid: Geometry) -> NDArray[np.float64]:
    middle = np.asarray(ndimage.center_of_mass(mask))
    out: NDArray[np.float64] = grid.affine[:3, :3] @ middle + grid.affine[:3, 3]
    return out


def _scale(organ: NDArray[np.bool_], geometry: Geometry, other: NDArray[np.bool_], other_geometry: Geometry) -> float:
    ratio = other.sum() * other_geometry.voxel_ml / (organ.sum() * geometry.voxel_ml)
    return float((np.clip(ratio, *VOLUME_RATIO) / ratio) ** (1 / 3))


def _working_grid(organ: NDArray[np.bool_], geometry: Geometry) -> Geometry:
    """Around the organ, with room for another shape and for the deformation to fade out; may leave the CT."""
    box = cast(Box, Box.around(organ))
    room = REACH_MM + 25.0
    low = geometry.affine[:3, :3] @ np.asarray(box.start) + geometry.affine[:3, 3] - room
    high = geometry.affine[:3, :3] @ np.asarray(box.stop) + geometry.affine[:3, 3] + room
    affine = np.diag([WORKING_MM, WORKING_MM, WORKING_MM, 1.0])
    affine[:3, 3] = low
    i, j, k = (int(n) for n in np.ceil((high - low) / WORKING_MM))
    return Geometry((i, j, k), affine)


def _distance(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Signed distance in mm, negative inside, cut off far away, where it would say nothing of the shape."""
    outside = ndimage.distance_transform_edt(~mask, sampling=WORKING_MM)
    inside = ndimage.distance_transform_edt(mask, sampling=WORKING_MM)
    return np.clip(outside - inside, -_DISTANCE_MM, _DISTANCE_MM).astype(np.float32)


def _registered(here: NDArray[np.bool_], there: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Displacements in mm, (3, I, J, K), from voxels of ``there`` to those of ``here``."""
    fixed, moving = (sitk.GetImageFromArray(_distance(mask)) for mask in (there, here))
    for image in (fixed, moving):
        image.SetSpacing([WORKING_MM] * 3)
    demons = sitk.DiffeomorphicDemonsRegistrationFilter()
    demons.SetNumberOfIterations(_ITERATIONS)
    demons.SetSmoothDisplacementField(True)
    demons.SetStandardDeviations(_SMOOTHING_VOXELS)
    field = sitk.GetArrayFromImage(demons.Execute(fixed, moving))
    # SimpleITK's arrays and vectors run the other way round than ours, both.
    return np.ascontiguousarray(np.moveaxis(field, -1, 0)[::-1], dtype=np.float32)


def _faded(field: NDArray[np.float32], shapes: NDArray[np.bool_]) -> NDArray[np.float32]:
    away = ndimage.distance_transform_edt(~shapes, sampling=WORKING_MM)
    return (field * np.clip(1.0 - away / REACH_MM, 0.0, 1.0)).astype(np.float32)


def _plausible(field: NDArray[np.float32]) -> bool:
    """Whether no place changes its volume too much."""
    jacobian = np.stack([np.stack(np.gradient(part, WORKING_MM), axis=-1) for part in field], axis=-2)
    change = np.linalg.det(jacobian + np.eye(3, dtype=np.float32))
    return bool(change.min() >= _VOLUME_CHANGE[0] and change.max() <= _VOLUME_CHANGE[1])
