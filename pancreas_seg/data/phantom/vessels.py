"""Aorta, inferior vena cava, and the vessels along the pancreas."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.data.phantom.canvas import Canvas
from pancreas_seg.data.phantom.labels import LABEL_OF
from pancreas_seg.data.phantom.pancreas import COURSE_Z, pancreas_paths
from pancreas_seg.data.phantom.patient import Patient
from pancreas_seg.data.phantom.shapes import smooth_path

# Reference paths: x, y, z, radius.
AORTA = (
    (-24, -4, 160, 11.5),
    (-19, 8, 110, 11),
    (-14, 20, 60, 10.5),
    (-10, 28, 10, 10),
    (-8, 29, -50, 9),
    (-4, 28, -118, 8.5),
)
ILIACS = (((-4, 28, -118, 7), (-22, 16, -165, 5.5)), ((-4, 28, -118, 7), (16, 20, -165, 5.5)))
CAVA = (
    (14, 16, -160, 9),
    (22, 19, -100, 10),
    (23, 20, -40, 11),
    (24, 22, 10, 11.5),
    (26, 28, 55, 12.5),
    (24, 33, 95, 13),
    (18, 38, 135, 14),
)
MESENTERIC_ARTERY = (
    (-10, 36, 8, 3.4),
    (-9, 46, 0, 3.4),
    (-9, 50, -28, 3.3),
    (-9, 58, -62, 3.2),
    (-4, 66, -95, 2.8),
    (4, 70, -150, 2.2),
)


def great_vessels(canvas: Canvas) -> None:
    """Inferior vena cava, aorta with its plaques and iliac arteries, and the coeliac trunk."""
    p, rng = canvas.patient, canvas.patient.rng("great vessels")
    width = rng.uniform(0.88, 1.1)
    cava = p.path(CAVA, 4, width)
    region, d = canvas.tubes([cava], (1.12, 0.8, 1))
    canvas.paint(region, d, canvas.textured(region, p.hu["cava"], 4, 5), LABEL_OF["inferior_vena_cava"])
    aorta = p.path(AORTA, 4, width)
    region, d = canvas.tubes([aorta, *(p.path(t, 4, width) for t in ILIACS)])
    canvas.carve(region, d, 1.0)
    canvas.paint(region, d, canvas.textured(region, p.hu["aorta"], 3), LABEL_OF["aorta"])
    plaque = np.maximum(np.abs(d + 0.8) - 0.8, np.float32(6) * (2.1 - np.abs(canvas.coarse[region])))
    if rng.uniform() < 0.6:
        canvas.paint(region, plaque, 420.0)
    coeliac = ((-11, 36, 24, 3.4), (-8, 46, 26, 3.0), (6, 48, 28, 2.6), (26, 46, 26, 2.4), (36, 46, 36, 2.0))
    region, d = canvas.tubes([p.path(coeliac, 3)])
    canvas.paint(region, d, p.hu["aorta"] - 5, 0)


def portal_system(canvas: Canvas) -> None:
    """Portal, splenic and superior mesenteric vein, with the arteries beside them."""
    p, paths = canvas.patient, _portal_paths(canvas.patient)
    name = "superior_mesenteric_artery"
    region, d = canvas.tubes(paths[name])
    canvas.carve(region, d, 2.0)
    canvas.paint(region, d, canvas.textured(region, p.hu["aorta"], 3), LABEL_OF[name])
    for name in ("superior_mesenteric_vein", "portal_and_splenic_vein"):
        region, d = canvas.tubes(paths[name])
        canvas.paint(region, d, canvas.textured(region, p.hu["portal"], 3), LABEL_OF[name])
    region, d = canvas.tubes(paths["splenic_artery"])
    canvas.paint(region, d, p.hu["aorta"] - 5)


def _portal_paths(p: Patient) -> dict[str, list[NDArray[np.float64]]]:
    """Paths of the vessels along the pancreas: veins behind it, arteries above it and to the left of the veins."""
    axis, s = pancreas_paths(p)[0], p.scale
    neck = int(np.argmin(np.linalg.norm(axis[:, :3] - p.place([(8.0, 56.0, COURSE_Z[p.course][0])]), axis=1)))
    meeting = axis[neck, :3] + (3, -(axis[neck, 3] + 4.8 * s), -3)
    behind = [meeting]
    for k in range(neck + 5, len(axis) - 2, 3):
        along = axis[k + 1, :3] - axis[k - 1, :3]
        back = np.array((along[1], -along[0], 0.0)) / max(float(np.hypot(along[0], along[1])), 1e-6)
        back = back if back[1] < 0 else -back
        behind.append(axis[k, :3] + back * (axis[k, 3] + 2.0 * s) + (0, 0, 2))
    course = np.vstack([*behind, p.place(((-94, -12, 34), (-100, -18, 42)))])
    n = len(course)
    above = course + np.column_stack([np.zeros(n), np.zeros(n), 8 + 4 * np.sin(np.arange(n) * 1.4)])
    above[0] = p.place(((-9, 45, 26),))[0]
    portal = np.vstack([meeting, p.place(((24, 44, 16), (40, 42, 34)))])
    lower = p.place(((9, 55, -38), (8, 64, -62), (12, 70, -95), (18, 72, -150)))
    tables = {
        "portal_and_splenic_vein": [
            np.column_stack([portal, np.array((6.2, 6.4, 6.4)) * s]),
            np.column_stack([course, np.linspace(4.8, 3.2, n) * s]),
        ],
        "superior_mesenteric_vein": [
            np.column_stack(
                [np.vstack([meeting, meeting + np.array((0, 2, -16)), lower]), np.array((6, 5.6, 5.4, 5, 4.2, 3.2)) * s]
            )
        ],
        "superior_mesenteric_artery": [p.place(MESENTERIC_ARTERY)],
        "splenic_artery": [np.column_stack([above, np.full(n, 2.3 * s)])],
    }
    return {name: [smooth_path(table, 3) for table in group] for name, group in tables.items()}


def mesenteric_root(p: Patient) -> NDArray[np.float64]:
    """Points with radius along the superior mesenteric vessels, which the bowel keeps clear of."""
    return np.concatenate([path for name, paths in _portal_paths(p).items() if "mesenteric" in name for path in paths])
