"""Agreement of two masks on the same grid: overlap, volume and surface distances.

The surface of a mask is its voxels minus those of its erosion by the six face neighbours; what lies outside the array
counts as background. Distances run from surface voxel centre to surface voxel centre, in millimetres. MONAI's
`HausdorffDistanceMetric`, `SurfaceDiceMetric` (without subvoxels) and `SurfaceDistanceMetric` have the same
conventions, and the values are the same where both masks hold something.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.geometry import Box

TOLERANCES_MM = (1.0, 2.0)
"""Of the normalized surface Dice; the Medical Segmentation Decathlon's tolerance for the pancreas is 5 mm."""

_ROUNDING = 1.0 + 1e-6
"""Spacings in files are 32-bit floats: 0.8 mm is 0.80000001 mm there, and has to pass a tolerance of 0.8 mm."""


@dataclass(frozen=True)
class Agreement:
    """How well a prediction agrees with its reference. R and P stand for their voxels.

    Parameters
    ----------
    dice : float
        2·|R∩P| / (|R| + |P|) (Dice 1945).
    iou : float
        Intersection over union, |R∩P| / |R∪P| (Jaccard 1912).
    precision : float
        |R∩P| / |P|.
    recall : float
        |R∩P| / |R|, also called sensitivity.
    reference_ml, prediction_ml : float
        Volumes in millilitres.
    volume_difference_ml : float
        Prediction minus reference.
    volume_difference_percent : float
        The same, relative to the reference.
    nsd : mapping of float to float
        Tolerance in millimetres to normalized surface Dice: the share of both surfaces' voxels that lie within the
        tolerance of the other surface (Nikolov et al. 2021, doi:10.2196/26151; counted by voxel as in Seidlitz et al.
        2022, doi:10.1016/j.media.2022.102488).
    hd95_mm : float
        95 % Hausdorff distance: the greater of both directions' 95th percentiles of the surface distance, linear
        between order statistics (Huttenlocher et al. 1993, doi:10.1109/34.232073, with 95 % in place of the maximum).
    mean_surface_distance_mm : float
        Average symmetric surface distance: the mean over the distances of both directions together (Heimann et al.
        2009, doi:10.1109/TMI.2009.2013851).
    """

    dice: float
    iou: float
    precision: float
    recall: float
    reference_ml: float
    prediction_ml: float
    volume_difference_ml: float
    volume_difference_percent: float
    nsd: Mapping[float, float]
    hd95_mm: float
    mean_surface_distance_mm: float

    def values(self) -> dict[str, float]:
        """All numbers by name in one flat dict, the surface Dice as ``nsd_1mm``, ``nsd_2mm`` and so on."""
        flat: dict[str, float] = {}
        for name in self.__dataclass_fields__:
            if name == "nsd":
                flat |= {nsd_name(tolerance): value for tolerance, value in self.nsd.items()}
            else:
                flat[name] = getattr(self, name)
        return flat


def nsd_name(tolerance_mm: float) -> str:
    """Name of a surface Dice in tables: ``nsd_1mm``, ``nsd_2.5mm``."""
    return f"nsd_{tolerance_mm:g}mm"


def dice(reference: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> float:
    """Dice coefficient 2·|R∩P| / (|R| + |P|) of two boolean arrays of the same shape (Dice 1945).

    1.0 if both are empty, since they agree; 0.0 if just one is.
    """
    if reference.shape != prediction.shape:
        raise ValueError(f"shapes {reference.shape} and {prediction.shape} differ")
    total = int(np.count_nonzero(reference)) + int(np.count_nonzero(prediction))
    return 1.0 if total == 0 else 2.0 * int(np.count_nonzero(reference & prediction)) / total


def agreement(
    reference: NDArray[np.bool_],
    prediction: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    tolerances_mm: Sequence[float] = TOLERANCES_MM,
) -> Agreement:
    """All metrics of one prediction.

    ===================  =========  ===============  ===========  ========================
    mask without voxels  overlap    surface Dice     distances    volume difference
    ===================  =========  ===============  ===========  ========================
    both                 1          1                0            0 ml, 0 %
    reference only       0          0                infinite     the prediction's, +inf %
    prediction only      0          0                infinite     minus the reference's, -100 %
    ===================  =========  ===============  ===========  ========================

    Overlap means Dice, IoU, precision and recall. Both empty is the right answer for an organ that is not there, and
    gets the best value; MONAI gives NaN, which its means leave out. With one empty, the distance to a set without
    points is infinite, as in DeepMind's surface-distance and in MONAI's average surface distance (its Hausdorff
    distance is NaN): so the case counts as the worst in medians, ranks and tests. NaN would drop just those cases in
    which the organ was missed. No value is ever NaN.

    Parameters
    ----------
    reference, prediction : (I, J, K) bool arrays
        On the same grid.
    spacing_mm : three floats
        Distance between voxel centres along each axis, in millimetres.
    tolerances_mm : sequence of float
        Of the surface Dice.

    Returns
    -------
    Agreement

    Raises
    ------
    ValueError
        If the arrays are not boolean, not three-dimensional or differ in shape, or a spacing or tolerance is no length.
    """
    _check(reference, prediction, spacing_mm, tolerances_mm)
    boxes = _bounding_box(reference), _bounding_box(prediction)
    voxel_ml = float(np.prod(spacing_mm)) / 1000.0
    sizes = [
        0 if box is None else int(np.count_nonzero(m[box.slices]))
        for m, box in zip((reference, prediction), boxes, strict=True)
    ]
    if boxes[0] is None or boxes[1] is None:
        return _with_an_empty_mask(sizes[0] * voxel_ml, sizes[1] * voxel_ml, tolerances_mm)
    common = _common(boxes[0], boxes[1])
    both = int(np.count_nonzero(reference[common] & prediction[common]))
    to_prediction, to_reference = _distances(
        _surface_mm(reference, boxes[0], spacing_mm), _surface_mm(prediction, boxes[1], spacing_mm)
    )
    all_distances = np.concatenate((to_prediction, to_reference))
    return Agreement(
        dice=2.0 * both / sum(sizes),
        iou=both / (sum(sizes) - both),
        precision=both / sizes[1],
        recall=both / sizes[0],
        reference_ml=sizes[0] * voxel_ml,
        prediction_ml=sizes[1] * voxel_ml,
        volume_difference_ml=(sizes[1] - sizes[0]) * voxel_ml,
        volume_difference_percent=100.0 * (sizes[1] - sizes[0]) / sizes[0],
        nsd={float(mm): float(np.mean(all_distances <= mm * _ROUNDING)) for mm in tolerances_mm},
        hd95_mm=float(max(np.percentile(to_prediction, 95), np.percentile(to_reference, 95))),
        mean_surface_distance_mm=float(all_distances.mean()),
    )


def surface_distances(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance of each surface voxel of one mask to the nearest surface voxel of the other, in millimetres.

    Parameters
    ----------
    reference, prediction : (I, J, K) bool arrays
        On the same grid.
    spacing_mm : three floats
        Distance between voxel centres along each axis.

    Returns
    -------
    to_prediction : (N,) array
        For the N surface voxels of the reference; infinite if the prediction is empty.
    to_reference : (M,) array
        For the M surface voxels of the prediction; infinite if the reference is empty.

    Raises
    ------
    ValueError
        As in `agreement`.
    """
    _check(reference, prediction, spacing_mm, ())
    surfaces = [_surface_mm(mask, _bounding_box(mask), spacing_mm) for mask in (reference, prediction)]
    return _distances(surfaces[0], surfaces[1])


def _distances(
    reference_mm: NDArray[np.float64], prediction_mm: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from scipy.spatial import cKDTree

    if not (len(reference_mm) and len(prediction_mm)):
        return np.full(len(reference_mm), np.inf), np.full(len(prediction_mm), np.inf)
    # Without balancing and with large leaves the tree is built in half the time and asked as fast.
    trees = [cKDTree(p, leafsize=32, balanced_tree=False, compact_nodes=False) for p in (reference_mm, prediction_mm)]
    return trees[1].query(reference_mm)[0], trees[0].query(prediction_mm)[0]


def _surface_mm(mask: NDArray[np.bool_], box: Box | None, spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """Centres of the surface voxels, shape (N, 3), from the centre of the array's first voxel."""
    if box is None:
        return np.empty((0, 3))
    crop = mask[box.slices]
    surface = crop.copy(order="K")
    # In the outermost layer of its own box a mask has no interior.
    middle = slice(1, -1)
    interior = crop[middle, middle, middle].copy(order="K")
    for axis in range(3):
        for side in (slice(None, -2), slice(2, None)):
            neighbour = [middle, middle, middle]
            neighbour[axis] = side
            interior &= crop[tuple(neighbour)]
    surface[middle, middle, middle] &= ~interior
    return (np.argwhere(surface) + np.asarray(box.start)) * np.asarray(spacing_mm, dtype=np.float64)


def _bounding_box(mask: NDArray[np.bool_]) -> Box | None:
    """As `Box.around`, but narrowed from the slowest axis in memory on, so that the array is read once."""
    start, stop = [0, 0, 0], list(mask.shape)
    for axis in np.argsort(mask.strides)[::-1].tolist():
        view = mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        hit = np.flatnonzero(view.any(axis=tuple(a for a in range(3) if a != axis)))
        if hit.size == 0:
            return None
        start[axis], stop[axis] = start[axis] + int(hit[0]), start[axis] + int(hit[-1]) + 1
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _common(a: Box, b: Box) -> tuple[slice, ...]:
    starts = [max(pair) for pair in zip(a.start, b.start, strict=True)]
    stops = [min(pair) for pair in zip(a.stop, b.stop, strict=True)]
    return tuple(slice(start, max(start, stop)) for start, stop in zip(starts, stops, strict=True))


def _with_an_empty_mask(reference_ml: float, prediction_ml: float, tolerances_mm: Sequence[float]) -> Agreement:
    neither = reference_ml == prediction_ml
    overlap = 1.0 if neither else 0.0
    distance = 0.0 if neither else float("inf")
    percent = 0.0 if neither else float("inf") if reference_ml == 0 else -100.0
    return Agreement(
        dice=overlap,
        iou=overlap,
        precision=overlap,
        recall=overlap,
        reference_ml=reference_ml,
        prediction_ml=prediction_ml,
        volume_difference_ml=prediction_ml - reference_ml,
        volume_difference_percent=percent,
        nsd={float(mm): overlap for mm in tolerances_mm},
        hd95_mm=distance,
        mean_surface_distance_mm=distance,
    )


def _check(reference: NDArray[Any], prediction: NDArray[Any], spacing: Sequence[float], mm: Sequence[float]) -> None:
    if reference.shape != prediction.shape or reference.ndim != 3:
        raise ValueError(f"shapes {reference.shape} and {prediction.shape} are not one and the same (I, J, K)")
    if reference.dtype != np.bool_ or prediction.dtype != np.bool_:
        raise ValueError(f"masks must be boolean, not {reference.dtype} and {prediction.dtype}")
    if len(spacing) != 3 or not (np.isfinite(spacing).all() and min(spacing) > 0):
        raise ValueError(f"spacing_mm must be three lengths above 0, not {tuple(spacing)}")
    if any(not (np.isfinite(t) and t >= 0) for t in mm):
        raise ValueError(f"tolerances_mm must be finite and not below 0, not {tuple(mm)}")
