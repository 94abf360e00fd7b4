"""How far a result can be trusted: a verdict with reasons. The thresholds are those of `VerdictConfig`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.config import VerdictConfig
from pancreas_seg.geometry import Box, Geometry
from pancreas_seg.inference.anatomy import Anatomy
from pancreas_seg.inference.clean import count_components

Verdict = Literal["ok", "review", "refused"]

_NO_AIR_HU = -500
_TISSUE_HU = (-200, 300)
_LOOKED_AT = 100
"""Voxels along each axis, at least, that `tissue_share` goes by where there are as many."""

_METAL_HU = 2000
_METAL_NEAR_MM = 20.0

_RANGES_ARE_OF = "pancreas"
"""The organ whose volume and HU `VerdictConfig` gives."""


@dataclass(frozen=True)
class Reason:
    """Why a verdict is not "ok": a stable code and a sentence."""

    code: str
    text: str


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of a result when it is judged.

    Parameters
    ----------
    organ : str
        Name of the first label, which was asked for.
    lowest_hu : float
        Of the whole image.
    mask : (I, J, K) bool array
        Of the organ, inside a box that holds all of it.
    at_border : bool
        Whether the organ reaches the first or last voxels of the image.
    volume_ml : float
    mean_hu, probability : float or None
        Means over the organ; None if there is none.
    agreement : float or None
        Dice of the coarse network's mask and this one; None without a coarse pass that is believed.
    stability : float or None
        Dice of the mask and the one of a slightly changed input; None if that was not tried.
    organs_ml : float or None
        What the coarse network saw of other organs; None if it knows none.
    anatomy : Anatomy
        How these organs lie to each other, and how large they are.
    tissue_share : float or None
        See `tissue_share`.
    metal_ml : float
        See `metal_ml`.
    """

    organ: str
    lowest_hu: float
    mask: NDArray[np.bool_]
    at_border: bool
    volume_ml: float
    mean_hu: float | None = None
    probability: float | None = None
    agreement: float | None = None
    stability: float | None = None
    organs_ml: float | None = None
    anatomy: Anatomy = field(default_factory=Anatomy)
    tissue_share: float | None = None
    metal_ml: float = 0.0

    def as_dict(self) -> dict[str, float | None]:
        """The numbers, rounded, for result.json."""
        values = {
            "lowest_hu": self.lowest_hu,
            "probability": self.probability,
            "agreement": self.agreement,
            "stability": self.stability,
            "organs_ml": self.organs_ml,
            "liver_right_of_spleen_mm": self.anatomy.right_mm,
            "liver_in_front_of_kidneys_mm": self.anatomy.front_mm,
            "liver_above_kidneys_mm": self.anatomy.above_mm,
            "spleen_to_liver": self.anatomy.spleen_to_liver,
            "tissue_share": self.tissue_share,
            "metal_ml": self.metal_ml,
        }
        return {name: None if value is None else round(value, 3) for name, value in values.items()}


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Dice of two masks of the same shape; 1 if both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def tissue_share(image: NDArray[Any]) -> float | None:
    """Share of the voxels above -500 HU that has the HU of fat, organs and blood, of an (I, J, K) image.

    Looks at a part of the voxels of a large image. None if there are none above -500 HU.
    """
    steps = [max(1, n // _LOOKED_AT) for n in image.shape]
    body = image[:: steps[0], :: steps[1], :: steps[2]]
    body = body[body > _NO_AIR_HU]
    low, high = _TISSUE_HU
    return float(((body >= low) & (body <= high)).mean()) if body.size else None


def metal_ml(image: NDArray[Any], geometry: Geometry, box: Box) -> float:
    """Volume above 2000 HU in a box of an (I, J, K) image and 20 mm around it."""
    around = box.grown([math.ceil(_METAL_NEAR_MM / mm) for mm in geometry.spacing_mm], geometry.shape)
    return int((image[around.slices] > _METAL_HU).sum()) * geometry.voxel_ml


def assess(evidence: Evidence, settings: VerdictConfig) -> tuple[Verdict, list[Reason]]:
    """Verdict on a result: "ok", or "review" with reasons."""
    reasons = [
        *_of_the_image(evidence, settings),
        *_of_the_pose(evidence, settings),
        *_of_the_mask(evidence, settings),
    ]
    return ("review" if reasons else "ok"), reasons


def _of_the_image(found: Evidence, settings: VerdictConfig) -> Iterator[Reason]:
    if found.lowest_hu > settings.air_hu:
        yield Reason(
            "result.not_hu",
            f"No voxel is below {settings.air_hu:g} HU (air), so the values may be no Hounsfield units.",
        )
    if found.tissue_share is not None and found.tissue_share < settings.tissue_share:
        low, high = _TISSUE_HU
        yield Reason(
            "result.hu_spread",
            f"Only {100 * found.tissue_share:.0f} % of what is no air lies between {low} and {high} HU, so the values "
            "may be no Hounsfield units.",
        )
    if found.organs_ml is not None and found.organs_ml < settings.organs_ml:
        yield Reason(
            "result.no_abdomen",
            f"Only {found.organs_ml:.0f} ml of liver, spleen, kidneys and their neighbours were seen; the image may "
            "not show the upper abdomen.",
        )


def _of_the_pose(found: Evidence, settings: VerdictConfig) -> Iterator[Reason]:
    seen = found.anatomy
    for value, text in (
        (seen.right_mm, "to the right of the spleen"),
        (seen.front_mm, "in front of the kidneys"),
        (seen.above_mm, "above the kidneys"),
    ):
        if value is not None and value < settings.organs_apart_mm:
            yield Reason(
                "result.orientation",
                f"The liver does not lie {text}; the header may state a wrong orientation, or the organs are mirrored.",
            )
    if seen.spleen_to_liver is not None and seen.spleen_to_liver > settings.spleen_to_liver:
        yield Reason(
            "result.spleen_like_liver",
            f"The spleen seen has {100 * seen.spleen_to_liver:.0f} % of the liver's volume; left and right may be "
            "changed over, or the spleen is large.",
        )


def _of_the_mask(found: Evidence, settings: VerdictConfig) -> Iterator[Reason]:
    if not found.mask.any():
        yield Reason("result.not_found", f"No {found.organ} was found.")
        return
    if found.at_border:
        yield Reason("result.touches_border", f"The {found.organ} reaches the edge of the image and may be cut off.")
    if found.metal_ml > settings.metal_ml:
        yield Reason(
            "result.metal",
            f"{found.metal_ml:.1f} ml near the {found.organ} are above {_METAL_HU} HU; metal and its streaks mislead.",
        )
    if (n := count_components(found.mask)) > 1:
        yield Reason("result.components", f"The {found.organ} is in {n} separate pieces.")
    if found.organ == _RANGES_ARE_OF:
        yield from _out_of_range(found, settings)
    for code, value, least, text in (
        ("result.probability", found.probability, settings.probability, "The mean probability in the mask is {:.2f}"),
        (
            "result.disagreement",
            found.agreement,
            settings.agreement,
            "The coarse and the fine network agree with a Dice of {:.2f}",
        ),
        (
            "result.unstable",
            found.stability,
            settings.stability,
            "A slightly changed image gives another mask, with a Dice of {:.2f}",
        ),
    ):
        if value is not None and value < least:
            yield Reason(code, f"{text.format(value)}, below {least:g}.")


def _out_of_range(found: Evidence, settings: VerdictConfig) -> Iterator[Reason]:
    low, high = settings.volume_ml
    if not low <= found.volume_ml <= high:
        yield Reason(
            "result.volume",
            f"A {found.organ} of {found.volume_ml:.1f} ml is outside {low:g} to {high:g} ml, the usual range.",
        )
    low, high = settings.mean_hu
    if found.mean_hu is not None and not low <= found.mean_hu <= high:
        yield Reason(
            "result.hu",
            f"A {found.organ} of {found.mean_hu:.0f} HU is outside {low:g} to {high:g} HU, the usual range.",
        )
