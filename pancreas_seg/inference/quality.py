"""How far a result can be trusted: a verdict with reasons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.inference.clean import count_components

Verdict = Literal["ok", "review", "refused"]

_AIR_HU = -500.0


@dataclass(frozen=True)
class Reason:
    """Why a verdict is not "ok": a stable code and a sentence."""

    code: str
    text: str


def assess(image: NDArray[np.float32], mask: NDArray[np.uint8], first_label: str) -> tuple[Verdict, list[Reason]]:
    """Verdict on a mask (I, J, K) of a CT (I, J, K) in HU; label 1 is the organ that was asked for."""
    reasons = []
    if float(image.min()) > _AIR_HU:
        reasons.append(
            Reason(
                "result.not_hu", f"No voxel is below {_AIR_HU:g} HU (air), so the values may be no Hounsfield units."
            )
        )
    organ = mask == 1
    if not organ.any():
        reasons.append(Reason("result.not_found", f"No {first_label} was found."))
        return "review", reasons
    faces = [organ.take(end, axis=axis) for axis in range(3) for end in (0, -1)]
    if any(face.any() for face in faces):
        reasons.append(
            Reason("result.touches_border", f"The {first_label} reaches the edge of the image and may be cut off.")
        )
    if (n := count_components(organ)) > 1:
        reasons.append(Reason("result.components", f"The {first_label} is in {n} separate pieces."))
    return ("review" if reasons else "ok"), reasons
