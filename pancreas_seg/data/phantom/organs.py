"""Liver, spleen, kidneys and gallbladder, with the vessels that belong to them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.data.phantom.canvas import Canvas, Region
from pancreas_seg.data.phantom.labels import LABEL_OF
from pancreas_seg.data.phantom.shapes import Array, ellipsoid, smooth_max, smooth_min, smooth_path

# Reference paths: x, y, z, radius.
GALLBLADDER = ((42, 50, 10, 4), (50, 62, -4, 10), (56, 74, -20, 15), (59, 84, -34, 14.5), (60, 88, -40, 10))
HEPATIC_VEINS = (
    ((24, 34, 92, 7), (58, 14, 78, 5), (98, -4, 52, 2.5)),
    ((24, 34, 92, 7), (40, 58, 74, 5), (62, 84, 38, 2)),
    ((24, 34, 92, 6), (2, 56, 82, 4), (-30, 74, 72, 2)),
    ((26, 28, 55, 5), (60, 0, 38, 3), (85, -25, 15, 1.8)),
)
PORTAL_TREE = (
    ((40, 42, 34, 6.5), (64, 36, 38, 5.5), (92, 52, 46, 3.5), (112, 58, 56, 1.8)),
    ((64, 36, 38, 5.5), (92, 4, 26, 4), (108, -28, 4, 2)),
    ((64, 36, 38, 4.5), (84, 48, 8, 3.2), (100, 46, -18, 1.8)),
    ((92, 4, 26, 3.2), (104, -10, 62, 1.8)),
    ((40, 42, 34, 5.5), (16, 52, 48, 4.5), (4, 72, 56, 4), (-34, 80, 66, 1.8)),
    ((4, 72, 56, 3.2), (14, 88, 28, 1.8)),
)


def liver(canvas: Canvas) -> None:
    """The liver with its veins."""
    region = canvas.around((-115, -95, -85), (145, 125, 135))
    d = _liver_distance(canvas, region)
    canvas.carve(region, d, 0.5)
    canvas.paint(region, d, canvas.textured(region, canvas.patient.hu["liver"], 6, 3), LABEL_OF["liver"])
    _liver_vessels(canvas, region, d)


def _liver_distance(canvas: Canvas, region: Region) -> Array:
    """Between diaphragm and wall, above a slanting floor, in front of a curved back, with caudate lobe and fissure."""
    p, rng = canvas.patient, canvas.patient.rng("liver")
    axes = canvas.cut(region)
    x, y, z = p.local(axes, (50, 30, 40))
    tip, left = rng.uniform(-18, 10), rng.uniform(-88, -38)
    floor = np.interp(x, (-90, -40, 0, 30, 58, 90, 125), (80, 54, 32, 14, -12, -38 + tip * 0.6, -50 + tip))
    floor = floor - 0.16 * (y - 20)
    behind = np.interp(x, (-90, -40, 0, 20, 34, 46, 58, 72, 125), (58, 48, 38, 22, 2, -24, -50, -66, -82))
    behind = behind + np.maximum(0, 12 - z) * 0.5
    rough = p.noise("liver", 42).on(axes) * 6 + p.noise("liver small", 20).on(axes) * 1.8
    below = np.asarray((floor - z) * 0.78 + rough, dtype=np.float32)
    back = np.asarray((behind - y) * 0.74 + p.noise("liver back", 32).on(axes) * 4.5, dtype=np.float32)
    caudate = ellipsoid(x - 14, y - 36, z - 56, (17, 15, 27))
    d = smooth_max(below, back, 9)
    d = smooth_max(d, np.asarray((left - x) * 0.9 + 0.25 * (z - 80) + 0 * y, dtype=np.float32), 10)
    d = smooth_min(d, caudate, 5)
    d = smooth_max(d, canvas.cavity[region] + 1, 5)
    d = smooth_max(d, canvas.dome[region] + 0.5, 6)
    bend = 2.5 * p.noise("fissure", 28).on(axes)
    fissure = np.abs(x - 9 - 0.12 * (z - 30) + 0.1 * (y - 70) + bend) - np.clip(0.1 * (52 - z), -2, 5)
    fissure = smooth_max(fissure, (60 - y) * 0.9 + 0 * bend, 3)
    return smooth_max(d, -np.asarray(fissure, dtype=np.float32), 4)


def _liver_vessels(canvas: Canvas, region: Region, liver: Array) -> None:
    """Hepatic veins and portal branches, with random twigs, where they lie inside the liver."""
    p, rng = canvas.patient, canvas.patient.rng("liver vessels")
    whole = canvas.full_of(region, liver)
    for trees, hu in ((HEPATIC_VEINS, p.hu["portal"] - 14), (PORTAL_TREE, p.hu["portal"])):
        paths = [p.path(table, 4) for table in trees]
        twigs = []
        for path in paths:
            for k in range(4, len(path) - 1, 4):
                way = path[k, :3] - path[k - 1, :3] + rng.normal(0, 4.0, 3)
                way *= rng.uniform(18, 42) / np.linalg.norm(way)
                r = path[k, 3] * rng.uniform(0.4, 0.6)
                bend = rng.normal(0, 3, 3)
                ends = [(*path[k, :3], r), (*(path[k, :3] + way / 2 + bend), r * 0.8), (*(path[k, :3] + way), r * 0.4)]
                twigs.append(smooth_path(ends, 5))
        area, d = canvas.tubes([*paths, *twigs])
        canvas.paint(area, np.maximum(d, whole(area) + 2), canvas.textured(area, hu, 3))


def spleen(canvas: Canvas) -> None:
    """An ellipsoid, hollowed from the side of the stomach and bounded by wall and diaphragm."""
    p, rng = canvas.patient, canvas.patient.rng("spleen")
    size = rng.uniform(0.84, 1.06)
    centre = np.array((-104, -26, 44)) + rng.normal(0, 3, 3)
    region = canvas.around(centre - 75, centre + 75)
    axes = canvas.cut(region)
    x, y, z = p.local(axes, centre)
    x, y, z = x - centre[0], y - centre[1], z - centre[2]
    whole = ellipsoid(x, y + 0.3 * z, z, (44 * size, 52 * size, 58 * size))
    medial = ellipsoid(x - 42, y - 34, z - 4, (36, 48, 72))
    d = whole + 2.5 * p.noise("spleen", 32).on(axes)
    d = smooth_max(d, -medial + 1.2 * p.noise("spleen hilum", 18).on(axes), 5)
    d = smooth_max(d, canvas.cavity[region] + 1.5, 4)
    d = smooth_max(d, canvas.dome[region] + 2, 5)
    canvas.carve(region, d, 0.5)
    canvas.paint(region, d, canvas.textured(region, p.hu["spleen"], 5, 2.5), LABEL_OF["spleen"])


def gallbladder(canvas: Canvas) -> None:
    """A thin wall filled with bile."""
    p, rng = canvas.patient, canvas.patient.rng("gallbladder")
    region, d = canvas.tubes([p.path(GALLBLADDER, 4, rng.uniform(0.7, 1.08))])
    d = np.maximum(d + 0.8 * p.noise("gallbladder", 20).on(canvas.cut(region)), canvas.cavity[region] + 3)
    canvas.paint(region, d, 55.0, LABEL_OF["gallbladder"])
    canvas.paint(region, d + 1.6, canvas.textured(region, p.hu["bile"], 2))


def kidneys(canvas: Canvas) -> None:
    """Kidneys with their vessels, ureters and adrenal glands."""
    for name, side, height in (("kidney_left", -1, -2), ("kidney_right", 1, -14)):
        rng = canvas.patient.rng(name)
        size = rng.uniform(0.9, 1.08)
        centre = np.array((side * 63.0, -27, height)) + rng.normal(0, 2.5, 3)
        _kidney(canvas, name, side, size, centre, rng)
        _renal_vessels(canvas, side, centre)
        _adrenal(canvas, side, centre[2])


def _kidney(
    canvas: Canvas, name: str, side: int, size: float, centre: NDArray[np.float64], rng: np.random.Generator
) -> None:
    """Cortex, pyramids, the fat of the sinus and the pelvis of one kidney; side is 1 on the patient's right."""
    p = canvas.patient
    region = canvas.around(centre - 72, centre + 72)
    axes = canvas.cut(region)
    x, y, z = p.local(axes, centre)
    x, y, z = side * (x - centre[0]), y - centre[1], z - centre[2]
    # Upper pole towards the spine and backwards, hilum facing inwards and to the front.
    x, y = x + np.float32(0.24) * z, y + np.float32(0.16) * z
    turn = np.radians(rng.uniform(25, 42))
    u, v = np.cos(turn) * x - np.sin(turn) * y, np.sin(turn) * x + np.cos(turn) * y
    w = z * np.ones_like(u)
    d = ellipsoid(u / size, v / size, w / size, (27, 23.5, 53)) * np.float32(size)
    d = d + 1.3 * p.noise(name, 22).on(axes)
    sinus = ellipsoid(u + 24, v, w, (20, 8, 21)) + 1.5 * p.noise(f"{name} sinus", 10).on(axes)
    kidney = smooth_max(d, -sinus, 4)
    canvas.carve(region, d, rng.uniform(2, 5))
    cortex = p.hu["cortex"]
    pyramids = np.clip(1.4 - 1.2 * np.abs(p.noise(f"{name} pyramids", 13).on(axes)), 0, 1)
    pyramids = pyramids * np.clip((-d - 5.5) / 3, 0, 1)
    hu = canvas.textured(region, cortex, 5, 3) + np.float32(p.hu["medulla"] - cortex - 25) * pyramids
    canvas.paint(region, kidney, hu, LABEL_OF[name])
    pelvis = ellipsoid(u + 17, v, w + 2, (9, 3.2, 8)) + 1.8 * p.noise(f"{name} pelvis", 9).on(axes)
    canvas.paint(region, pelvis, 14.0, 0)


def _renal_vessels(canvas: Canvas, side: int, centre: NDArray[np.float64]) -> None:
    """Artery, vein and ureter of the kidney around a reference point."""
    p = canvas.patient
    cx, cy, cz = centre
    hilum = (cx - side * 12, cy + 7, cz)
    end = (24, 20, cz + 6) if side > 0 else (16, 42, cz + 8)
    over = () if side > 0 else ((-14, 42, cz + 7, 4.2), (-30, 24, cz + 4, 4.5))
    vein = [(*end, 5.0), *over, (cx - side * 24, cy + 14, cz + 2, 5.0), (*hilum, 2.5)]
    artery = [(-9, 27, cz + 10, 3.2), (side * 20, 12, cz + 9, 3.0), (*hilum[:2], cz + 4, 2.4)]
    ureter = [
        (*hilum, 3.5),
        (cx - side * 24, cy + 12, cz - 25, 2.2),
        (side * 36, 14, -80, 2.0),
        (side * 34, 20, -165, 2.0),
    ]
    for table, hu in ((artery, "aorta"), (vein, "cava"), (ureter, "bile")):
        region, d = canvas.tubes([p.path(table, 3)])
        canvas.paint(region, d, p.hu[hu] + 15, 0)


def _adrenal(canvas: Canvas, side: int, cz: float) -> None:
    """Two limbs of the adrenal gland above the kidney whose middle lies at height cz."""
    p = canvas.patient
    gland = ((side * 26, -2, cz + 46, 2.2), (side * 36, -10, cz + 40, 2.4), (side * 34, -26, cz + 42, 1.8))
    limb = ((side * 36, -10, cz + 40, 2.4), (side * 46, -24, cz + 38, 1.6))
    region, d = canvas.tubes([p.path(gland, 4), p.path(limb, 4)], (1, 1, 2.6))
    canvas.paint(region, d, canvas.textured(region, 75, 6), 0)
