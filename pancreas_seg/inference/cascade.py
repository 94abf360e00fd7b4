"""Two stages: a coarse network tells where the organ is, the fine networks look only there.

The mask never ends flat at the edge of the box: where it comes near a face of the box that is not the image's own, the
box is grown on that side and the fine stage runs again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pancreas_seg.config import CleanConfig, Config, InferConfig
from pancreas_seg.data.model_grid import model_grid
from pancreas_seg.geometry import Box, Geometry
from pancreas_seg.inference.anatomy import Anatomy, anatomy_of
from pancreas_seg.inference.clean import clean_mask, count_components
from pancreas_seg.inference.quality import Reason, dice
from pancreas_seg.inference.restore import covering
from pancreas_seg.inference.stage import Pass, Stage, StageProgress, fine_pass, timed, whole
from pancreas_seg.io import Scan
from pancreas_seg.network.decision import decided
from pancreas_seg.resampling import resample

GROWTHS = 4
"""How often the box is grown at most, by infer.margin_mm (at least 10 mm), twice, four times, eight times as much."""

_SMALLEST_STEP_MM = 10.0

_RIM = 2
"""Voxels of the model grid at a box's faces in which the mask counts as cut off."""


@dataclass(frozen=True, eq=False)
class Located:
    """Where the coarse network sees the organ.

    Parameters
    ----------
    box : Box or None
        Voxels of ``model`` around everything that it sees; None if that is nothing.
    volume_ml : float
        Of the organ.
    doubt : tuple of str or None
        Why it is not believed: the code of a reason and the beginning of its sentence.
    organ : (I, J, K) bool array
        On ``model``, the coarse network's grid.
    model : Geometry
    organs_ml : float or None
        Volume of the other organs that it sees; None if it knows no others.
    anatomy : Anatomy
    """

    box: Box | None
    volume_ml: float
    doubt: tuple[str, str] | None
    organ: NDArray[np.bool_]
    model: Geometry
    organs_ml: float | None
    anatomy: Anatomy

    def agreement(self, mask: NDArray[np.bool_], geometry: Geometry) -> float:
        """Dice, on the coarse grid, of the coarse network's organ and a mask (I, J, K) on another grid."""
        share = resample(mask.astype(np.float32), geometry, self.model, "antialiased", fill=0.0)
        return dice(share > 0.5, self.organ)


@dataclass(frozen=True, eq=False)
class Found:
    """What the stages found together.

    Parameters
    ----------
    fine : Pass or None
        The fine stage's last pass; None if it did not run.
    mode : {"cascade", "full"}
        Whether that pass saw the coarse network's box or the whole CT.
    reasons : list of Reason
        For review.
    facts : dict or None
        For result.json; None without a coarse stage.
    located : Located or None
        What the coarse stage saw; None without one.
    """

    fine: Pass | None
    mode: Literal["cascade", "full"]
    reasons: list[Reason]
    facts: dict[str, Any] | None
    located: Located | None = None


def find(
    fine: Stage, coarse: Stage, scan: Scan, timings: dict[str, float], progress: StageProgress | None = None
) -> Found:
    """Locate the organ with the coarse stage and segment it with the fine one.

    Where the coarse stage sees nothing that can be believed, or the fine one finds nothing in the box, the whole CT is
    searched, or nothing at all with ``infer.fallback = "none"``; a reason for review says so.
    """
    settings, organ = fine.config.infer, fine.config.infer.output[0]
    located = locate(coarse, scan, settings, timings, progress)
    facts: dict[str, Any] = {
        "coarse_volume_ml": round(located.volume_ml, 3),
        "coarse_box_ras_mm": None if located.box is None else _box_mm(located.model, located.box),
        "fine_box_ras_mm": None,
        "growths": 0,
        "fallback": None,
    }
    doubt, found = located.doubt, None
    if located.box is not None and doubt is None:
        found, growths, at_limit = _grown(fine, scan, located, located.box, timings, progress)
        facts |= {"fine_box_ras_mm": _box_mm(scan.geometry, found.box), "growths": growths}
        if (found.mask == 1).any() or found.box == whole(scan):
            return Found(found, "cascade", [_limit_reason(organ)] if at_limit else [], facts, located)
        doubt = "result.coarse_wrong", f"The fine network found no {organ} where the coarse one did"
    code, text = doubt or ("", "")
    facts["fallback"] = settings.fallback
    if settings.fallback == "none":
        return Found(found, "cascade", [Reason(code, f"{text}; nothing else was searched.")], facts, located)
    found = fine_pass(fine, scan, timings, progress)
    return Found(found, "full", [Reason(code, f"{text}; the whole CT was searched.")], facts, located)


def locate(
    coarse: Stage, scan: Scan, settings: InferConfig, timings: dict[str, float], progress: StageProgress | None = None
) -> Located:
    """Find the organ on the coarse network's grid.

    A voxel belongs to the most probable class. Of each class, pieces below the coarse network's own
    ``clean.keep_fraction`` of the largest are dropped.

    Parameters
    ----------
    coarse : Stage
    scan : Scan
    settings : InferConfig
        Of the fine stage: what is believed, and the classes that are wanted.
    timings : dict of str to float
        Gets "coarse_preprocess", "coarse_network" and "coarse_locate".
    """
    names = _localising_names(coarse.config, settings.output)
    others = [name for name in coarse.config.data.classes if name not in names]
    prediction = coarse.predict(scan, [*names, *others], timings, "coarse_", progress)
    model = prediction.model
    with timed(timings, "coarse_locate"):
        rule = CleanConfig(coarse.config.clean.keep_fraction, fill_holes=False, minimum_volume_ml=0.0)
        labels = clean_mask(
            decided(prediction.probabilities[: len(names)], coarse.config.infer.threshold), model.voxel_ml, rule
        )
        organ = labels == 1
        seen = dict(zip(others, prediction.probabilities[len(names) :] > 0.5, strict=True))
        others_ml = sum(int(one.sum()) for one in seen.values()) * model.voxel_ml if others else None
        volume_ml = int(organ.sum()) * model.voxel_ml
        doubt = _doubt(organ, volume_ml, model, names[0], settings)
        anatomy = anatomy_of(seen, model)
        return Located(Box.around(labels > 0), volume_ml, doubt, organ, model, others_ml, anatomy)


def is_scattered(organ: NDArray[np.bool_], spacing_mm: Sequence[float], gap_mm: float) -> bool:
    """Whether some pieces of a mask (I, J, K) are further than a distance from all the others."""
    box = Box.around(organ)
    if box is None or count_components(organ[box.slices]) == 1:
        return False
    distance = ndimage.distance_transform_edt(~organ[box.slices], sampling=spacing_mm)
    return count_components(distance <= gap_mm / 2) > 1


def near_faces(mask: NDArray[np.bool_], box: Box, shape: Sequence[int], rim: Sequence[int]) -> NDArray[np.bool_]:
    """Faces of a box that a mask on the box comes near to, unless they are the image's own.

    Parameters
    ----------
    mask : (I, J, K) bool array
        On the box.
    box : Box
    shape : (3,) ints
        Of the image.
    rim : (3,) ints
        Near is what lies in that many voxels at the face.

    Returns
    -------
    (3, 2) bool array
        For each axis: the face at its start, the one at its end.
    """
    near = np.zeros((3, 2), dtype=bool)
    for axis in range(3):
        profile = np.atleast_1d(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        near[axis, 0] = box.start[axis] > 0 and profile[: rim[axis]].any()
        near[axis, 1] = box.stop[axis] < shape[axis] and profile[-rim[axis] :].any()
    return near


def _grown(
    fine: Stage, scan: Scan, located: Located, organ: Box, timings: dict[str, float], progress: StageProgress | None
) -> tuple[Pass, int, bool]:
    """The fine stage's last pass, how often the box was grown, and whether the mask still comes near its faces.

    Boxes are of the fine model grid of the whole CT, so that a crop of it holds the voxels that a full pass would see.
    """
    data, margin_mm, threshold = fine.config.data, fine.config.infer.margin_mm, fine.config.infer.threshold
    model = model_grid(scan.geometry.as_ras(), data.spacing_mm)
    rim = (_RIM, _RIM, _RIM + data.neighbour_slices)
    box = covering(located.model, organ, model)
    box = _moved(box, np.ones((3, 2), dtype=bool), _voxels(margin_mm, model, rim), model.shape)
    growths = 0
    while True:
        found = fine_pass(fine, scan, timings, progress, box)
        near = near_faces(decided(found.prediction.probabilities, threshold) > 0, box, model.shape, rim)
        if growths == GROWTHS or not near.any():
            return found, growths, bool(near.any())
        step_mm = max(margin_mm, _SMALLEST_STEP_MM) * 2**growths
        box = _moved(box, near, _voxels(step_mm, model), model.shape)
        growths += 1


def _moved(box: Box, faces: NDArray[np.bool_], by: Sequence[int], shape: Sequence[int]) -> Box:
    """The box with some faces (see `near_faces`) moved outwards by numbers of voxels, kept inside the image."""
    grown = box.grown(by, shape)
    start = [g if face else b for g, b, face in zip(grown.start, box.start, faces[:, 0], strict=True)]
    stop = [g if face else b for g, b, face in zip(grown.stop, box.stop, faces[:, 1], strict=True)]
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _voxels(mm: float, geometry: Geometry, more: Sequence[int] = (0, 0, 0)) -> tuple[int, int, int]:
    # Spacings are rounded in files: a thousandth of a voxel less is enough.
    i, j, k = (math.ceil(mm / s - 1e-3) + extra for s, extra in zip(geometry.spacing_mm, more, strict=True))
    return i, j, k


def _localising_names(coarse: Config, wanted: Sequence[str]) -> list[str]:
    """Classes of the coarse network to look at: those that are wanted, then those of its own output."""
    known = [name for name in wanted if name in coarse.data.classes]
    return [*known, *(name for name in coarse.infer.output if name not in known)]


def _doubt(
    organ: NDArray[np.bool_], volume_ml: float, model: Geometry, name: str, settings: InferConfig
) -> tuple[str, str] | None:
    low, high = settings.coarse_volume_ml
    saw = f"The coarse network saw a {name} of {volume_ml:.1f} ml"
    if volume_ml == 0:
        return "result.coarse_nothing", f"The coarse network saw no {name}"
    if volume_ml < low:
        return "result.coarse_too_small", f"{saw}, less than {low:g} ml"
    if volume_ml > high:
        return "result.coarse_too_large", f"{saw}, more than {high:g} ml"
    if is_scattered(organ, model.spacing_mm, settings.coarse_gap_mm):
        return "result.coarse_scattered", f"{saw} in pieces more than {settings.coarse_gap_mm:g} mm apart"
    return None


def _limit_reason(organ: str) -> Reason:
    return Reason(
        "result.box_limit",
        f"The mask still reaches the edge of the searched box after it was grown {GROWTHS} times; the {organ} may be "
        "cut off.",
    )


def _box_mm(geometry: Geometry, box: Box) -> list[list[float]]:
    return [[round(v, 3) for v in end] for end in geometry.box_mm(box)]
