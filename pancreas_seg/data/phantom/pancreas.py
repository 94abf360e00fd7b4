"""The pancreas and its ducts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.data.phantom.canvas import Canvas, Region
from pancreas_seg.data.phantom.labels import LABEL_OF
from pancreas_seg.data.phantom.patient import Patient
from pancreas_seg.data.phantom.shapes import Array, one_piece

# x, y, z, radius from the lower head to the tail; z of the last six points is that of the patient's course.
PANCREAS = (
    (34, 36, -54, 8.0),
    (34, 39, -38, 13.0),
    (31, 43, -21, 14.0),
    (21, 50, -8, 11.5),
    (8, 56, 0, 7.5),
    (-12, 56, 6, 9.0),
    (-35, 44, 12, 9.5),
    (-58, 24, 18, 10.0),
    (-76, 5, 24, 9.5),
    (-90, -5, 30, 6.5),
)
COURSE_Z = {
    "oblique": (0, 6, 13, 20, 27, 33),
    "sigmoid": (0, 9, 17, 12, 15, 27),
    "horseshoe": (4, 11, 12, 7, 1, -6),
    "inverted_v": (3, 17, 23, 14, 2, -9),
}
UNCINATE = ((30, 40, -26, 10.0), (20, 38, -31, 7.5), (7, 36, -33, 4.5))


def pancreas_paths(p: Patient) -> list[NDArray[np.float64]]:
    """Axis of the pancreas from the lower head to the tail, and of the uncinate process."""
    rng = p.rng("pancreas")
    table = np.array(PANCREAS, dtype=np.float64)
    table[4:, 2] = COURSE_Z[p.course]
    table[1:, :3] += rng.normal(0, 1.5, (len(table) - 1, 3))
    table[:, 3] *= rng.uniform(0.92, 1.08, len(table))
    uncinate = np.array(UNCINATE, dtype=np.float64)
    uncinate[0, :3] = 0.5 * (table[1, :3] + table[2, :3])
    paths = [p.path(table, 3), p.path(uncinate, 3)]
    volume = sum(
        part * 1.25 * np.pi * 3 * (path[:, 3] ** 2).sum() for path, part in zip(paths, (1.0, 0.5), strict=True)
    )
    factor = np.clip(np.sqrt(rng.uniform(46, 106) * 1000 / volume), 0.75, 1.2)
    for path in paths:
        path[:, 3] *= factor
    return paths


def pancreas(canvas: Canvas) -> None:
    """The pancreas with its ducts."""
    p, rng = canvas.patient, canvas.patient.rng("pancreas tissue")
    paths = pancreas_paths(p)
    region, d = canvas.tubes(paths, (1, 1, 1.25))
    axes = canvas.cut(region)
    lobules = p.noise("lobules", 8).on(axes)
    clefts = np.exp(-((p.noise("clefts", 9).on(axes) / 0.22) ** 2))
    lobulation = rng.uniform(0.65, 1.15)
    d = d + np.float32(1.1 * lobulation) * lobules + np.float32(2.6 * lobulation) * clefts - np.float32(0.5)
    d = one_piece(d)
    canvas.carve(region, d, rng.uniform(0.8, 2.5))
    fatty = rng.uniform(0, 0.35) * np.clip((p.fat_mm - 5) / 25 + 0.3, 0, 1)
    hu = canvas.textured(region, p.hu["pancreas"], 8, 2) - np.float32(90 * fatty) * clefts
    canvas.paint(region, d, hu, LABEL_OF["pancreas"])
    duct = paths[0].copy()
    duct[:, 3] = rng.uniform(0.8, 1.3)
    _ducts(canvas, region, d, duct)


def _ducts(canvas: Canvas, region: Region, pancreas: Array, duct: NDArray[np.float64]) -> None:
    """The pancreatic duct, mostly thinner than a voxel, and the bile duct."""
    p = canvas.patient
    whole = canvas.full_of(region, pancreas)
    area, d = canvas.tubes([duct])
    target = canvas.hu[area]
    thin = np.clip(0.5 - d / canvas.blur_mm, 0, 1) * min(1.0, 2.0 / canvas.blur_mm) * (whole(area) < -2)
    target += np.float32(0.7) * thin * (30 - target)
    bile = ((44, 44, 32, 2.8), (38, 44, 14, 2.8), (38, 36, -10, 2.6), (44, 36, -32, 2.2))
    area, d = canvas.tubes([p.path(bile, 3)])
    canvas.paint(area, d, p.hu["bile"] + 5)
