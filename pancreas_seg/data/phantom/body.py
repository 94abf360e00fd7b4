"""Patient table, skin, fat, muscles and chest."""

from __future__ import annotations

import numpy as np

from pancreas_seg.data.phantom import outline
from pancreas_seg.data.phantom.canvas import Canvas, Region
from pancreas_seg.data.phantom.labels import LABEL_OF
from pancreas_seg.data.phantom.shapes import Array, ellipsoid

# Muscles of the right side, from the top downwards but for the crus: x, y, z, radius.
PSOAS = ((24, -16, 34, 3), (28, -12, 0, 9), (33, -8, -50, 15), (41, -4, -110, 19), (50, 6, -170, 20))
QUADRATUS = ((52, -58, 42, 6), (58, -54, -20, 11), (63, -50, -100, 13), (66, -48, -160, 13))
CRUS = ((11, 20, -40, 3), (12, 26, 10, 5), (15, 24, 45, 6), (20, 22, 80, 5))


def table(canvas: Canvas) -> None:
    """The table that the patient lies on."""
    p = canvas.patient
    theta, radius = outline.wall_radius(p, 20, "skin")
    back = float((radius * np.sin(theta)).min()) + p.centre_y
    x, y, _ = canvas.axes
    top = back - 3 + x[:, None] ** 2 / 1500
    depth = (top - y[None, :])[:, :, None].astype(np.float32)
    everywhere = canvas.everywhere
    one = np.ones_like(canvas.axes[2])[None, None]
    canvas.paint(everywhere, np.maximum(-depth, np.abs(x)[:, None, None] - 220) * one, -930.0)
    canvas.paint(everywhere, (np.abs(depth - 9) - 2.0) * one, 60.0)


def soft_tissue(canvas: Canvas) -> None:
    """Skin, fat, the layered muscles of the wall, and the fat inside."""
    p, full = canvas.patient, canvas.everywhere
    skin = outline.contour(p, canvas.axes, "skin")
    canvas.paint(full, skin, 5.0)
    septa = np.exp(-((p.noise("septa", 17).on(canvas.axes) / 0.07) ** 2))
    canvas.paint(full, skin + 2.2, canvas.textured(full, p.hu["fat"], 5, 3) + 22 * septa)

    thickness = canvas.cavity - canvas.wall
    part = canvas.cavity / np.maximum(thickness, 1)
    x, y, z = canvas.axes
    side = np.abs(np.arctan2(np.abs(x)[:, None], np.abs(y - p.centre_y)[None, :] + 1e-3)) / 1.5708
    side = np.clip(4 * side - 2.2, 0, 1).astype(np.float32)[:, :, None]
    waver = p.noise("waver", 40).on(canvas.axes)
    part = part + 0.05 * waver
    lines = sum(np.exp(-((((part - q) * thickness) / 0.9) ** 2)) for q in (0.36, 0.68))
    lines *= side * np.clip(0.5 + 0.5 * canvas.coarse - 0.5 * waver, 0, 1) * np.clip((40 * p.tall - z) / 25, 0, 1)
    muscle = canvas.textured(full, p.hu["muscle"], 7, 3) - 80 * lines
    marbling = p.rng("marbling").uniform(0.3, 1.0)
    muscle -= np.float32(marbling * 35) * np.clip(np.abs(canvas.coarse) - 1.0, 0, 1.5) * (part > 0.2)
    canvas.paint(full, canvas.wall, muscle)
    canvas.paint(full, canvas.cavity, canvas.textured(full, p.hu["fat"], 5, 3))


def chest(canvas: Canvas) -> None:
    """Lung bases, diaphragm, heart and gullet."""
    p = canvas.patient
    region = canvas.around((-150, -110, 30), (150, 130, 250))
    axes = canvas.cut(region)
    x, y, z = p.local(axes)
    dome, cavity = canvas.dome[region], canvas.cavity[region]
    mediastinum = ellipsoid(x + 6, y - 22, z * 0, (34, 62, 1e4))
    heart = ellipsoid(x + 30, y - 48, z - 168, (62, 50, 56))
    heart = heart + 2 * p.noise("heart", 40).on(axes)
    lung = np.maximum(np.maximum(cavity + 2, 2.5 - dome), -mediastinum)
    lung = np.maximum(lung, 3 - heart)
    above = np.maximum(cavity, -dome)
    canvas.paint(region, np.maximum(cavity, np.abs(dome) - 1.8), p.hu["muscle"] - 8)
    vessels = canvas.threads(region, "lung", 20, 0.22)
    density = -865 + 25 * canvas.coarse[region] + 620 * vessels - 1.0 * np.minimum(y + 60, 100) * 0.4
    canvas.paint(region, lung, density, LABEL_OF["lung"])
    canvas.paint(region, np.maximum(above, heart), canvas.textured(region, p.hu["muscle"] + 50, 8), 0)
    chambers = np.maximum(heart + 9, 1.5 - np.abs(x + 30 + 0.4 * (y - 48)))
    canvas.paint(region, np.maximum(above, chambers), canvas.textured(region, p.hu["aorta"] - 10, 5))
    gullet, d = canvas.tubes([p.path(((-10, 22, 170, 7), (-12, 30, 120, 7.5), (-20, 26, 100, 8), (-40, 6, 84, 9)))])
    canvas.paint(gullet, d, canvas.textured(gullet, 50, 8))


def muscles(canvas: Canvas) -> None:
    """Psoas, quadratus lumborum, crura of the diaphragm and erector spinae."""
    p = canvas.patient
    for right, stretch in ((PSOAS, (0.95, 1.25, 1)), (QUADRATUS, (1.5, 0.75, 1)), (CRUS, (1.3, 0.8, 1))):
        left = np.array(right, dtype=np.float64) * (-1, 1, 1, 1)
        if right is CRUS:
            left[:, :2] += (-11, -3)
        region, d = canvas.tubes([p.path(right, 8), p.path(left, 8)], stretch)
        d = d + 2.0 * p.noise("psoas", 24).on(canvas.cut(region))
        _muscle(canvas, region, d)
    region = canvas.around((-75, -95, -1e4), (75, 0, 1e4))
    axes = canvas.cut(region)
    x, y, z = p.local(axes)
    thoracic = np.clip((z - 20) / 60, 0, 1)
    d = ellipsoid(np.abs(x) - 27, y + 48 + 7 * thoracic, 0 * z, (30, 21, 1e4)) + 5 * thoracic
    _muscle(canvas, region, d + 2.0 * p.noise("erector", 26).on(axes))


def _muscle(canvas: Canvas, region: Region, d: Array) -> None:
    streaks = np.clip(np.abs(canvas.coarse[region]) - 1.1, 0, 1)
    canvas.paint(region, d, canvas.textured(region, canvas.patient.hu["muscle"], 7, 3) - 25 * streaks)
