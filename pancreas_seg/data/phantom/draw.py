"""One phantom: the order of painting, the field of view, and what a scanner adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pancreas_seg.data.phantom import body, bones, bowel, organs, vessels
from pancreas_seg.data.phantom.canvas import Canvas
from pancreas_seg.data.phantom.labels import LABEL_OF
from pancreas_seg.data.phantom.outline import wall_radius
from pancreas_seg.data.phantom.pancreas import pancreas, pancreas_paths
from pancreas_seg.data.phantom.patient import Patient
from pancreas_seg.data.phantom.shapes import one_piece
from pancreas_seg.geometry import Geometry

_ORDER: tuple[Callable[[Canvas], None], ...] = (
    body.table,
    body.soft_tissue,
    body.chest,
    bones.ribs,
    body.muscles,
    bowel.mesentery,
    bowel.small_bowel,
    bowel.colon,
    organs.liver,
    organs.spleen,
    bowel.stomach,
    organs.kidneys,
    vessels.great_vessels,
    organs.gallbladder,
    bowel.duodenum,
    pancreas,
    vessels.portal_system,
    bones.spine,
)
"""What is painted, each over the ones before."""


@dataclass(frozen=True)
class Phantom:
    """One drawn patient.

    Parameters
    ----------
    hu : (I, J, K) int16 array
        Hounsfield units.
    labels : (I, J, K) uint8 array
        Keys of `LABELS`, 0 elsewhere.
    geometry : Geometry
        Where the voxels lie.
    """

    hu: NDArray[np.int16]
    labels: NDArray[np.uint8]
    geometry: Geometry


def draw_phantom(
    seed: int | Sequence[int],
    spacing_mm: tuple[float, float, float] = (2.0, 2.0, 3.0),
    orientation: str = "LPS",
    extent_mm: tuple[float, float, float] | None = None,
) -> Phantom:
    """Draw a patient, arrays of shape (I, J, K).

    The anatomy follows from the seed alone; spacing, orientation and extent only say how it is sampled. The same
    arguments give the same bytes.

    Parameters
    ----------
    seed : int or sequence of ints
        Not negative, as for `numpy.random.SeedSequence`.
    spacing_mm : (3,) floats
        Voxel spacing along the voxel axes I, J, K.
    orientation : str
        Where the voxel axes point to, one letter of each pair R/L, A/P, S/I.
    extent_mm : (3,) floats, optional
        Size of the field of view to the Right, Anterior and Superior, centred on the pancreas; about
        (190, 120, 140) holds all of it. Without it the field of view follows from the seed: the whole cross-section,
        from the lung bases to below the kidneys.
    """
    key = (int(seed),) if isinstance(seed, int | np.integer) else tuple(int(s) for s in seed)
    axis_of, sign = _parse(orientation)
    if min(spacing_mm) <= 0:
        raise ValueError(f"spacing {spacing_mm} is not above 0")
    patient = Patient.draw(key)
    spacing = [spacing_mm[axis] for axis in axis_of]
    low, high = _field_of_view(patient, extent_mm)
    axes = [
        (lo + step * (np.arange(max(3, round((hi - lo) / step))) + 0.5)).astype(np.float32)
        for lo, hi, step in zip(low, high, spacing, strict=True)
    ]
    canvas = Canvas((axes[0], axes[1], axes[2]), max(1.3, sum(spacing) / 3), patient)
    _draw(canvas)
    _scan(canvas, spacing)
    return _stored(canvas, axis_of, sign, spacing, low)


def _stored(
    canvas: Canvas, axis_of: list[int], sign: list[int], spacing: list[float], low: NDArray[np.float64]
) -> Phantom:
    """The canvas, whose lowest corner is given, turned from Right, Anterior, Superior to the voxel axes asked for."""
    affine = np.eye(4)
    affine[:3, :3] = 0.0
    for world, (axis, way) in enumerate(zip(axis_of, sign, strict=True)):
        first = 0 if way > 0 else len(canvas.axes[world]) - 1
        affine[world, axis] = way * spacing[world]
        affine[world, 3] = low[world] + spacing[world] * (first + 0.5)
    affine[:3, 3] += _world_offset(canvas.patient)
    flips = tuple(slice(None, None, way) for way in sign)
    order = np.argsort(axis_of)
    hu = np.clip(np.rint(canvas.hu), -1024, 3071).astype(np.int16)
    hu = np.ascontiguousarray(hu[flips].transpose(order))
    labels = np.ascontiguousarray(canvas.labels[flips].transpose(order))
    i, j, k = hu.shape
    return Phantom(hu, labels, Geometry((i, j, k), affine))


def _parse(orientation: str) -> tuple[list[int], list[int]]:
    """For Right, Anterior, Superior: the voxel axis along it, and +1 or -1 for its direction."""
    axis_of, sign = [], []
    for pair in ("RL", "AP", "SI"):
        hit = [(axis, letter) for axis, letter in enumerate(orientation.upper()) if letter in pair]
        if len(hit) != 1 or len(orientation) != 3:
            raise ValueError(f"orientation {orientation!r} needs one letter of each pair R/L, A/P, S/I")
        axis_of.append(hit[0][0])
        sign.append(1 if hit[0][1] == pair[0] else -1)
    return axis_of, sign


def _world_offset(p: Patient) -> NDArray[np.float64]:
    """Where the scanner's origin puts the middle of the first lumbar vertebra, mm."""
    return np.round(p.rng("scanner").uniform((-12, -60, -250), (12, 20, 150)), 1)


def _field_of_view(
    p: Patient, extent_mm: tuple[float, float, float] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest corner, mm from the middle of the first lumbar vertebra."""
    if extent_mm is not None:
        points = np.concatenate(pancreas_paths(p))[:, :3]
        middle, half = (points.min(axis=0) + points.max(axis=0)) / 2, np.asarray(extent_mm, dtype=np.float64) / 2
        return middle - half, middle + half
    rng = p.rng("field of view")
    theta, radius = wall_radius(p, 20, "skin")
    x, y = radius * np.cos(theta), radius * np.sin(theta) + p.centre_y
    width = np.clip(2 * np.abs(x).max() + rng.uniform(14, 40), 340, 400)
    depth = np.clip(np.ptp(y) + rng.uniform(40, 60), 260, 320)
    back = y.min() - rng.uniform(24, 32)
    bottom, top = -p.tall * rng.uniform(104, 138), p.tall * rng.uniform(108, 140)
    return np.array([-width / 2, back, bottom]), np.array([width / 2, back + depth, top])


def _draw(canvas: Canvas) -> None:
    for paint in _ORDER:
        paint(canvas)
    # Vessels and bowel that cover the pancreas may cut off a voxel or two of it.
    inside = canvas.labels == LABEL_OF["pancreas"]
    canvas.labels[inside & (one_piece(np.where(inside, np.float32(-1), np.float32(1))) > 0)] = 0


def _scan(canvas: Canvas, spacing: Sequence[float]) -> None:
    """Blur across slices and add what a scanner adds: quantum noise, faint streaks, a little cupping."""
    rng = canvas.patient.rng("scan")
    hu = ndimage.gaussian_filter1d(canvas.hu, 0.3, axis=2, mode="nearest")
    level = rng.uniform(9, 14) * (12 / np.prod(spacing)) ** 0.25
    noise = rng.standard_normal(hu.shape, dtype=np.float32)
    for axis in range(2):
        noise = ndimage.gaussian_filter1d(noise, 0.9 / spacing[axis], axis=axis, mode="wrap")
    noise *= np.float32(level / noise.std())
    streak = rng.standard_normal(hu.shape[1:], dtype=np.float32)[None] * np.float32(0.12 * level)
    # X-rays that cross the middle of the body are weakened most.
    x, y, _ = (a.astype(np.float32) for a in canvas.axes)
    middle = np.exp(-((x[:, None] / 110) ** 2) - ((y[None, :] - 20) / 80) ** 2)
    noise *= (0.6 + 0.5 * middle)[:, :, None]
    hu += noise + streak * middle[:, :, None] - np.float32(2) * middle[:, :, None]
    canvas.hu = hu
