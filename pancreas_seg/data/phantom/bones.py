"""Ribs and spine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.data.phantom.canvas import Canvas, Region
from pancreas_seg.data.phantom.labels import LABEL_OF
from pancreas_seg.data.phantom.outline import CAVITY, wall_radius
from pancreas_seg.data.phantom.patient import Patient
from pancreas_seg.data.phantom.shapes import Array, ellipsoid, rounded_box, smooth_max, smooth_min


def ribs(canvas: Canvas) -> None:
    """Ribs 7 to 12 and the costal cartilages, between the inner and the outer side of the wall."""
    p = canvas.patient
    # By rib, from the lowest: the angle of its front end in degrees, 90 being the front, and how far it drops, mm.
    ends, drops = (-28, -2, 34, 50, 60, 66), (30, 58, 88, 108, 118, 124)
    radii = [wall_radius(p, level, "cavity") for level in sorted(CAVITY)]
    bones, cartilages = [], []
    for number, (end, drop) in enumerate(zip(ends, drops, strict=True)):
        # Up to 1 the bone, beyond it the cartilage; the two lowest ribs end free.
        t = np.linspace(0, 1.0 if number < 2 else 1.35, 28)
        angle = np.minimum(-79 + (end + 79) * t, 78)
        z = 42 + 33.5 * number - drop * np.minimum(t, 1) ** 1.15 + 170 * np.maximum(t - 1, 0)
        for side in (1, -1):
            points = _along_wall(p, radii, np.radians(angle if side > 0 else 180 - angle), z)
            bones.append(points[t <= 1.0])
            cartilages.append(points[t > 0.98])
    region, d = canvas.tubes([c for c in cartilages if len(c) > 1], (0.9, 0.9, 1.2))
    canvas.paint(region, d, canvas.textured(region, 92, 20, 8))
    for side in (0, 1):
        region, d = canvas.tubes(bones[side::2], (0.85, 0.85, 1.35))
        canvas.paint(region, d, _bone(canvas, region, d), LABEL_OF["bone"])


def _along_wall(
    p: Patient, radii: Sequence[tuple[Array, Array]], angle: NDArray[np.float64], z: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Path of a rib in the wall, by angle in radians and reference height; `radii` are those of the cavity."""
    turned = (angle + np.pi) % (2 * np.pi) - np.pi
    by_level = np.stack([np.interp(turned, *r) for r in radii])
    levels = sorted(CAVITY)
    r = np.array([np.interp(h, levels, column) for h, column in zip(z, by_level.T, strict=True)]) + 7.0 * p.scale
    xyz = (r * np.cos(turned), r * np.sin(turned) + p.centre_y, z * p.tall)
    return np.column_stack([*xyz, np.full(len(z), 4.6 * p.scale)])


def spine(canvas: Canvas) -> None:
    """Vertebrae, discs and the spinal canal; every vertebra is the same but for its place."""
    p, rng = canvas.patient, canvas.patient.rng("spine")
    region = canvas.box((-60 * p.scale, -95 * p.scale, -1e4), (60 * p.scale, 30 * p.scale, 1e4))
    xs, ys, zs = canvas.cut(region)
    pitch = 35.5
    height = zs / p.tall
    x = ((xs[:, None] - 3.5 * np.sin(height / 80 + rng.uniform(0, 6))[None]) / p.scale).astype(np.float32)[:, None, :]
    y = ((ys[:, None] / p.scale) + 0.00035 * (height + 55)[None] ** 2).astype(np.float32)[None]
    local = ((height - rng.uniform(-3, 3) + pitch / 2) % pitch - pitch / 2).astype(np.float32)[None, None]
    one = np.zeros(canvas.hu[region].shape, np.float32)
    ring = (np.abs(x / 23.0) ** 2.4 + np.abs(y / 17.0) ** 2.4) ** np.float32(1 / 2.4)
    ring = (ring - 1) * 18 + one
    canvas.paint(region, ring - 1, canvas.textured(region, 78, 8), 0)
    body = smooth_max(ring + 3.2 * np.cos(np.clip(local / 14, -1.2, 1.2)) ** 2, np.abs(local) - 13.2 + one, 3)
    arch = _arch(x + one, y + one, local + one)
    canal = ellipsoid(x + one, y + 25.5, one, (11.5, 8.5, 1e4))
    bone = smooth_max(smooth_min(body, arch, 2.5), -canal, 1.5)
    canvas.paint(region, canal, -60.0, 0)
    canvas.paint(region, canal + 2.2, 32.0, 0)
    d = bone * np.float32(p.scale)
    canvas.paint(region, d, _bone(canvas, region, d), LABEL_OF["bone"])


def _arch(x: Array, y: Array, z: Array) -> Array:
    """Pedicles, laminae, joints, transverse and spinous processes of a vertebra."""
    side = np.abs(x)
    pedicle = rounded_box(side - 14, y + 21, z - 5, (4.2, 9, 7), 3)
    ring = np.abs(ellipsoid(x, y + 26, z * 0, (15, 13, 1e4))) - 2.8
    lamina = smooth_max(ring, np.maximum(y + 26, np.abs(z + 3) - 10), 2)
    joint = ellipsoid(side - 17, y + 37, np.abs(z) - 15, (6.5, 6, 9))
    transverse = rounded_box(side - 28, y + 28 + 0.3 * (side - 15), z - 5, (15, 3.4, 5), 3)
    spinous = rounded_box(x, y + 54, z + 6 + 0.25 * (y + 54) * -1, (3.0, 17, 9), 2.5)
    out = smooth_min(smooth_min(pedicle, lamina, 2), smooth_min(transverse, spinous, 2), 2)
    return smooth_min(out, joint, 2)


def _bone(canvas: Canvas, region: Region, distance: Array) -> Array:
    """Spongy bone with a cortical shell."""
    shell = np.exp(np.minimum(distance, 0) * np.float32(1 / 1.3))
    return canvas.textured(region, canvas.patient.hu["spongy"], 22, 8) + np.float32(270) * shell
