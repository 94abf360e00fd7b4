"""Stomach, duodenum, small bowel and colon, and the fat between their loops."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.data.phantom.canvas import Canvas, Region
from pancreas_seg.data.phantom.labels import LABEL_OF
from pancreas_seg.data.phantom.shapes import Array, smooth_max
from pancreas_seg.data.phantom.vessels import mesenteric_root

GAS = -900.0
# Reference paths: x, y, z, radius.
STOMACH = (
    (-46, -12, 84, 22),
    (-60, 12, 80, 31),
    (-70, 46, 52, 30),
    (-60, 72, 20, 25),
    (-34, 84, -3, 21),
    (0, 86, -10, 17),
    (21, 80, 1, 13.5),
    (33, 71, 10, 8),
)
DUODENUM = (
    (34, 69, 11, 10),
    (47, 60, 12, 11.5),
    (57, 46, 1, 11),
    (60, 38, -25, 11.5),
    (56, 37, -50, 11),
    (40, 38, -66, 10.5),
    (14, 43, -71, 9),
    (-12, 45, -67, 9),
    (-28, 46, -46, 10),
    (-34, 54, -28, 10.5),
)
# Ascending, transverse, descending.
COLON = (
    ((88, 2, -165, 24), (96, 4, -125, 25), (101, 6, -85, 23), (101, 14, -58, 22), (92, 36, -48, 21)),
    (
        (92, 36, -48, 21),
        (72, 74, -62, 20),
        (34, 90, -82, 19),
        (-18, 92, -84, 18),
        (-66, 78, -52, 17),
        (-94, 48, -8, 17),
    ),
    (
        (-94, 48, -8, 17),
        (-110, 18, 14, 17),
        (-117, -10, -12, 15),
        (-116, -20, -60, 13),
        (-112, -14, -112, 13),
        (-104, 0, -165, 14),
    ),
)


def mesentery(canvas: Canvas) -> None:
    """Small vessels in the fat of mesentery and omentum."""
    p = canvas.patient
    region = canvas.around((-125, -30, -180), (125, 125, 90))
    axes = canvas.cut(region)
    _, y, _ = p.local(axes)
    inside = np.clip(-canvas.cavity[region] / 4 - 0.5, 0, 1) * np.clip(-canvas.dome[region] / 4, 0, 1)
    inside = np.where(axes[2] > 0, inside, np.clip(-canvas.cavity[region] / 4 - 0.5, 0, 1))
    threads = canvas.threads(region, "mesentery", 20, 0.17) * np.clip((y - 28) / 12, 0, 1)
    target = canvas.hu[region]
    target += threads * inside * (115 - target)


def stomach(canvas: Canvas) -> None:
    """Wall with folds, contents, and gas above a level that lies flat."""
    p, rng = canvas.patient, canvas.patient.rng("stomach")
    path = p.path(STOMACH, 5, rng.uniform(0.88, 1.14))
    region, d = canvas.tubes([path])
    axes = canvas.cut(region)
    d = d + 2.2 * p.noise("stomach", 26).on(axes)
    d = smooth_max(d, canvas.cavity[region] + 3, 4)
    d = smooth_max(d, canvas.dome[region] + 2, 5)
    canvas.carve(region, d, 1.0)
    canvas.paint(region, d, canvas.textured(region, p.hu["wall"] + 5, 9, 4), LABEL_OF["stomach"])
    rugae = np.float32(2.6) * np.clip(np.abs(p.noise("rugae", 11).on(axes)), 0, 1.6)
    lumen = d + 3.0 + rugae
    grain = rng.uniform(4, 14)
    canvas.paint(region, lumen, canvas.textured(region, p.hu["chyme"] + 8, grain, grain))
    level = np.quantile(path[:, 1] + 0.6 * path[:, 3], rng.uniform(0.3, 0.55))
    canvas.paint(region, np.maximum(lumen - 0.6 * rugae, np.float32(level) - axes[1][None, :, None]), GAS)


def duodenum(canvas: Canvas) -> None:
    """From the bulb around the head of the pancreas to the jejunum."""
    p = canvas.patient
    path = p.path(DUODENUM, 4, p.rng("duodenum").uniform(0.85, 1.05))
    region, d = canvas.tubes([path])
    d = d + 1.1 * p.noise("duodenum", 13).on(canvas.cut(region))
    # Gas collects in the bulb, its highest part in a patient who lies on the back.
    level = float(path[:, 1].max()) - 8.0
    _hollow_organ(canvas, region, d, "duodenum", level, gas=-0.2, folds=1.0)


def small_bowel(canvas: Canvas) -> None:
    """Rows of winding loops; each row covers the one before, so that neighbours keep a wall between them."""
    p, rng = canvas.patient, canvas.patient.rng("small bowel")
    root = mesenteric_root(p)
    for row in range(15):
        layer, height = 2 - row % 3, row // 3
        z0 = -30 - 25 * height + 10 * layer
        left, right = (-98, 78) if height > 1 else (-98, -34 + 14 * height)
        right = right if layer else min(right, -42)
        x = np.arange(left, right, 9.0)
        phase = rng.uniform(0, 6.3)
        wave = x * 2 * np.pi / rng.uniform(52, 70) + phase
        z = z0 + 13 * np.sin(wave) + rng.normal(0, 2, len(x))
        y = (34, 56, 82)[layer] + 9 * np.cos(wave * 0.9) - (np.abs(x) / 100) ** 2 * 12 + rng.normal(0, 2, len(x))
        r = np.clip(rng.normal(11, 0.8) + 1.5 * np.cos(1.7 * wave) + rng.normal(0, 0.8, len(x)), 7, 15)
        region, d = canvas.tubes([_aside(p.path(np.column_stack([x, y, z, r]), 6), root, 5.0)])
        axes = canvas.cut(region)
        d = np.maximum(d + 1.0 * p.noise(f"loop {row}", 15).on(axes), canvas.cavity[region] + 2)
        level = p.place([[0.0, (40.0, 62.0, 88.0)[layer], z0]])[0, 1]
        _hollow_organ(canvas, region, d, "bowel", level, gas=0.45, folds=1.2)


def colon(canvas: Canvas) -> None:
    """Three stretches with haustra and stool."""
    p, rng = canvas.patient, canvas.patient.rng("colon")
    size, root = rng.uniform(0.8, 1.08, 3), mesenteric_root(p)
    for part, table in enumerate(COLON):
        path = p.path(table, 4, size[part])
        run = np.arange(len(path)) * 4.0
        path = _aside(path, root, 3.0)
        path[:, 3] *= 1 + 0.11 * np.cos(run * 2 * np.pi / rng.uniform(24, 32) + rng.uniform(0, 6))
        region, d = canvas.tubes([path])
        d = d + 1.6 * p.noise(f"colon {part}", 14).on(canvas.cut(region))
        d = np.maximum(d, canvas.cavity[region] + 2)
        height = float(path[:, 1].mean()) + (2.0 if part != 1 else -4.0)
        gas, stool = (0.2, -0.5, 0.3)[part], (1.0, 0.5, 0.8)[part]
        _hollow_organ(canvas, region, d, "bowel", height, gas, folds=0.6, stool=stool)


def _hollow_organ(
    canvas: Canvas, region: Region, d: Array, name: str, level: float, gas: float, folds: float, stool: float = 0.0
) -> None:
    """A hollow organ: wall, contents, and gas in its stretches that hold some, above a level that lies flat."""
    p = canvas.patient
    axes = canvas.cut(region)
    canvas.carve(region, d, 0.8)
    canvas.paint(region, d, canvas.textured(region, p.hu["wall"], 8, 5), LABEL_OF[name])
    lumen = d + 2.4 + np.float32(folds) * np.abs(canvas.fine[region])
    contents = canvas.textured(region, p.hu["chyme"], 7 + 12 * stool, 10)
    if stool:
        contents -= np.float32(420 * stool) * np.clip(canvas.fine[region] - 1.1, 0, 1.2)
    canvas.paint(region, lumen, contents)
    where = p.noise(f"gas {name}", 34).on(axes)
    top = np.float32(level) - axes[1][None, :, None]
    canvas.paint(region, np.maximum(np.maximum(d + 2.0, top), np.float32(8) * (gas - where)), GAS)


def _aside(path: NDArray[np.float64], others: NDArray[np.float64], gap: float) -> NDArray[np.float64]:
    """A tube moved sideways and to the front or back until a gap in mm lies between it and other tubes."""
    out = path.copy()
    for _ in range(3):
        way = out[:, None, :3] - others[None, :, :3]
        distance = np.linalg.norm(way, axis=2)
        room = distance - others[None, :, 3] - out[:, None, 3] - gap
        nearest = room.argmin(axis=1)
        row = np.arange(len(out))
        way = way[row, nearest, :2]
        way /= np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-6)
        out[:, :2] += way * np.maximum(-room[row, nearest], 0)[:, None]
    return out
