"""How the organs that the coarse network sees lie to each other: a wrong orientation in a header turns them round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.geometry import Geometry

_SEEN_ML = 30.0
"""Of an organ below this its place says nothing."""


@dataclass(frozen=True)
class OrgansApart:
    """Distances between centres of organs in mm, negative the wrong way round; None where an organ is not seen.

    Parameters
    ----------
    right : float or None
        How far the liver is to the right of the spleen.
    front : float or None
        How far the liver is in front of the kidneys.
    above : float or None
        How far the liver is above the kidneys.
    """

    right: float | None = None
    front: float | None = None
    above: float | None = None


def organs_apart(seen: Mapping[str, NDArray[np.bool_]], geometry: Geometry) -> OrgansApart:
    """Distances between organs' centres.

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
        return OrgansApart()
    right = None if spleen is None else float(liver[0] - spleen[0])
    if not kidneys:
        return OrgansApart(right)
    way = liver - np.mean(kidneys, axis=0)
    return OrgansApart(right, float(way[1]), float(way[2]))


def _centre_mm(mask: NDArray[np.bool_], geometry: Geometry) -> NDArray[np.float64] | None:
    n = int(mask.sum())
    if n * geometry.voxel_ml < _SEEN_ML:
        return None
    index = []
    for axis in range(3):
        along = mask.sum(axis=tuple(a for a in range(3) if a != axis))
        index.append(float((np.arange(len(along)) * along).sum()) / n)
    return geometry.world(index)
