"""Surfaces that bound the body: skin, both sides of the wall, and the diaphragm."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from pancreas_seg.data.phantom.patient import Patient
from pancreas_seg.data.phantom.shapes import Array, Axes, ellipsoid, smooth_min

# Inner surface of the abdominal and chest wall, right half from the front to the back (x, y), at five heights z.
CAVITY: dict[float, list[tuple[float, float]]] = {
    -150: [(0, 92), (45, 93), (82, 78), (106, 45), (114, 10), (108, -22), (88, -48), (60, -56), (30, -54), (0, -52)],
    -60: [(0, 104), (45, 104), (86, 86), (114, 50), (123, 12), (118, -24), (98, -52), (68, -61), (32, -56), (0, -52)],
    20: [(0, 108), (45, 107), (88, 88), (120, 52), (131, 10), (126, -32), (106, -61), (76, -72), (40, -62), (0, -50)],
    80: [(0, 100), (45, 99), (88, 82), (121, 48), (133, 6), (127, -36), (106, -66), (78, -79), (44, -66), (0, -40)],
    150: [(0, 84), (45, 84), (84, 70), (112, 42), (124, 2), (119, -38), (100, -66), (75, -80), (44, -68), (0, -42)],
}
# Thickness of the wall and of the fat below the skin against the angle from the patient's Right (90: front).
_WALL_ANGLE = (-90, -80, -65, -50, -30, 0, 30, 48, 57, 68, 82, 90)
_WALL_LUMBAR_MM = (37, 41, 34, 19, 14, 16, 16, 12, 9, 12, 12, 10)
_WALL_THORACIC_MM = (60, 55, 32, 19, 15, 15, 15, 12, 10, 11, 12, 11)
_FAT_ANGLE = (-90, -70, -45, -20, 20, 60, 90)
_FAT_PART = (0.6, 0.75, 1.05, 0.95, 0.75, 0.95, 1.0)


def contour(p: Patient, axes: Axes, surface: str) -> Array:
    """Distance to the cavity, the outer side of the wall ("wall") or the skin, each star-shaped about the midline."""
    x, y, z = axes
    centre = p.centre_y
    rho = np.hypot(x[:, None], y[None, :] - centre)
    theta = np.arctan2(y[None, :] - centre, x[:, None])
    levels = np.array(sorted(CAVITY)) * p.tall
    maps = np.stack([np.interp(theta, *wall_radius(p, level, surface)) for level in sorted(CAVITY)], axis=-1)
    weights = CubicSpline(levels, np.eye(len(levels)))(np.clip(z, levels[0], levels[-1]))
    radius = maps @ weights.T
    middle = maps.mean(axis=-1)
    slope = np.gradient(middle, x, axis=0) ** 2 + np.gradient(middle, y, axis=1) ** 2
    return ((rho[:, :, None] - radius) / np.sqrt(1 + slope)[:, :, None]).astype(np.float32)


def wall_radius(p: Patient, level: float, surface: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Angles (radians) and radii (mm, from the middle of the body) of a surface at one of the drawn heights."""
    points = np.array(CAVITY[level])
    points = p.rigid(np.column_stack([points, np.zeros(len(points))]))[:, :2]
    points[:, 1] -= p.centre_y
    angle = np.arctan2(points[:, 1], points[:, 0])
    angle = np.concatenate([angle, np.pi - angle[-2:0:-1]])
    r = np.hypot(points[:, 0], points[:, 1])
    r = np.concatenate([r, r[-2:0:-1]])
    order = np.argsort(-angle)[::-1]
    knots, values = angle[order], r[order]
    theta = np.linspace(-np.pi, np.pi, 361)
    spline = CubicSpline(np.append(knots, knots[0] + 2 * np.pi), np.append(values, values[0]), bc_type="periodic")
    radius = spline(np.where(theta < knots[0], theta + 2 * np.pi, theta))
    # Folded to the right half, so that the tables of thickness serve both sides.
    folded = np.degrees(np.arcsin(np.clip(np.sin(theta), -1, 1)))
    if surface != "cavity":
        thoracic = np.clip((level + 20) / 100, 0, 1)
        wall = (1 - thoracic) * np.array(_WALL_LUMBAR_MM) + thoracic * np.array(_WALL_THORACIC_MM)
        radius += p.scale * np.interp(folded, _WALL_ANGLE, wall)
    if surface == "skin":
        height = np.interp(level, (-150, -60, 20, 150), (1.15, 1.0, 0.8, 0.6))
        radius += 2.0 + p.fat_mm * height * np.interp(folded, _FAT_ANGLE, _FAT_PART)
    rng = p.rng("outline")
    for order_k in range(2, 6):
        radius *= 1 + 0.012 / order_k * rng.normal() * np.cos(order_k * theta + rng.uniform(0, 6.3))
    kernel = np.hanning(15) / np.hanning(15).sum()
    return theta, np.convolve(np.pad(radius[:-1], 7, mode="wrap"), kernel, mode="valid")[np.r_[0:360, 0]]


def dome(p: Patient, axes: Axes) -> Array:
    """Distance to the diaphragm, negative below it."""
    x, y, z = p.local(axes)
    right = ellipsoid(x - 62, y - 16, z - 14, (69, 80, 102))
    left = ellipsoid(x + 62, y - 8, z - 12, (69, 78, 94))
    middle = ellipsoid(x, y - 18, z - 12, (62, 76, 88))
    out = smooth_min(smooth_min(right, left, 10), middle, 14)
    # The diaphragm arises from the wall, higher at the front than at the back.
    origin = 40 + 0.2 * np.maximum(0, y + 25) + 0.05 * np.abs(x)
    out = smooth_min(out, np.asarray((z - origin) * 0.75, dtype=np.float32), 8)
    return np.asarray(out + 2.0 * p.noise("dome", 50.0).on(axes), dtype=np.float32)
