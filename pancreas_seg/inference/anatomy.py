"""Place and size of the organs that the coarse network sees: a wrong orientation in a header changes them.

A network that goes by place takes the left half of a mirrored liver for a spleen; so the spleen's size tells more of
left and right than where the two are seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.geometry import Geometry

_SEEN_ML = 30.0
"""Of an organ below this its place says nothing."""


@dataclass(frozen=True)
class Anatomy:
    """Distances between centres of organs, negative the wrong way round, and sizes; None where an organ is not seen.

    Parameters
    ----------
    right_mm : float or None
        How far the liver is to the right of the spleen.
    front_mm, above_mm : float or None
        How far the liver is in front of the kidneys, and above them.
    spleen_to_liver : float or None
        The spleen's volume as a share of the liver's.
    """

    right_mm: float | None = None
    front_mm: float | None = None
    above_mm: float | None = None
    spleen_to_liver: float | None = None


def anatomy_of(seen: Mapping[str, NDArray[np.bool_]], geometry: Geometry) -> Anatomy:
    """Measure how organs lie to each other.

    Parameters
    ----------
    seen : mapping of str to (I, J, K) bool array
        By the names "liver", "spleen", "kidney_left" and "kidney_right"; others, and missing ones, do no harm.
    geometry : Geometry
    """
    centres = {name: _centre_mm(mask, geometry) for name, mask in seen.items()}
    liver, spleen = centres.get("liver"), centres.get("spleen")
    kidneys = [c for name in ("kidney_left", "kidney_right") if (c := centres.get(name)) is not None]
    if liver is None:
        return Anatomy()
    right = None if spleen is None else float(liver[0] - spleen[0])
    ratio = None if spleen is None else float(seen["spleen"].sum() / seen["liver"].sum())
    if not kidneys:
        return Anatomy(right, spleen_to_liver=ratio)
    _, front, above = (float(mm) for mm in liver - np.mean(kidneys, axis=0))
    return Anatomy(right, front, above, ratio)


def _centre_mm(mask: NDArray[np.bool_], geometry: Geometry) -> NDArray[np.float64] | None:
    n = int(mask.sum())
    if n * geometry.voxel_ml < _SEEN_ML:
        return None
    index = []
    for axis in range(3):
        along = mask.sum(axis=tuple(a for a in range(3) if a != axis))
        index.append(float((np.arange(len(along)) * along).sum()) / n)
    return geometry.world(index)
