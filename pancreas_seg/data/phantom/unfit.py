"""What is no sound abdominal CT, made from one that is, or from nothing: to see what a program says of it.

Each of `SPOILED` takes an image (I, J, K) in HU and its geometry and gives both anew, of the same shape; the same
input gives the same output. `chest` and `pelvis` cut a phantom; `head` and `cylinder` are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pancreas_seg.data.phantom.draw import Phantom, draw_phantom
from pancreas_seg.data.phantom.labels import LABEL_OF
from pancreas_seg.geometry import Geometry

Image = tuple[NDArray[np.int16], Geometry]

_TALL_MM = (380.0, 300.0, 720.0)
"""Field of view that reaches from the chest to the pelvis."""

_AROUND_ABDOMEN_MM = 15.0


def mr(hu: NDArray[np.int16], geometry: Geometry) -> Image:
    """MR-like: 0 to about 1500, fat bright, bone and air dark, uneven, with Rician noise."""
    signal = np.interp(hu, (-1000, -700, -110, -20, 10, 60, 140, 300, 1000), (0, 15, 1100, 420, 330, 480, 640, 260, 40))
    uneven = np.exp(-_radius(hu.shape) * 0.5)
    rng = np.random.default_rng(1)
    real, imaginary = rng.normal(0, 25, (2, *hu.shape))
    return np.clip(np.hypot(signal * uneven + real, imaginary), 0, 1500).astype(np.int16), geometry


def cone_beam(hu: NDArray[np.int16], geometry: Geometry) -> Image:
    """Cone-beam CT: values that are off, cupping, much noise, a round field of view that cuts the patient."""
    radius = _radius(hu.shape)[:, :, :1]
    cupped = 0.9 * (hu + 1000.0) - 1000 - 120 * np.exp(-((radius / 0.6) ** 2)) + 60
    noise = np.random.default_rng(2).normal(0, 1, hu.shape)
    noise = ndimage.gaussian_filter(noise, (0.7, 0.7, 0.3))
    cupped += 90 / noise.std() * noise
    return _stored(np.where(radius < 1, cupped, -1000)), geometry


def eight_bit(hu: NDArray[np.int16], geometry: Geometry) -> Image:
    """The window -160 to 240 HU in 256 grey values, as a screenshot has it."""
    return np.rint(np.clip((hu + 160.0) / 400, 0, 1) * 255).astype(np.int16), geometry


def shifted_up(hu: NDArray[np.int16], geometry: Geometry) -> Image:
    """Without its intercept: air at about 0."""
    return _stored(hu + 1024.0), geometry


def shifted_down(hu: NDArray[np.int16], geometry: Geometry) -> Image:
    """With its intercept taken off twice: air at about -2024."""
    return _stored(hu - 1024.0), geometry


def shifted_up_padded(hu: NDArray[np.int16], geometry: Geometry) -> Image:
    """Without its intercept, but with padding at -2000 around a round field of view."""
    return _stored(np.where(_radius(hu.shape) < 1.05, hu + 1024.0, -2000)), geometry


def upside_down(hu: NDArray[np.int16], geometry: Geometry) -> Image:
    """Slices in the wrong order: head and feet are changed over, and so is the body's handedness."""
    return _flipped(hu, geometry, 2), geometry


def left_right(hu: NDArray[np.int16], geometry: Geometry) -> Image:
    """Left and right are changed over."""
    return _flipped(hu, geometry, 0), geometry


def front_back(hu: NDArray[np.int16], geometry: Geometry) -> Image:
    """Front and back are changed over."""
    return _flipped(hu, geometry, 1), geometry


def metal(hu: NDArray[np.int16], geometry: Geometry) -> Image:
    """A ball of metal of 24 mm in the middle of the image, with streaks."""
    x, y, z = _millimetres(geometry)
    distance = np.sqrt(x**2 + y**2 + z**2)
    angle = np.arctan2(y, x)
    streaks = 500 * np.cos(9 * angle) * np.exp(-np.abs(distance - 12) / 60) * (np.abs(z) < 14)
    return _stored(np.where(distance < 12, 3071, hu + streaks)), geometry


SPOILED: Mapping[str, Callable[[NDArray[np.int16], Geometry], Image]] = MappingProxyType(
    {
        "mr": mr,
        "cone_beam": cone_beam,
        "eight_bit": eight_bit,
        "shifted_up": shifted_up,
        "shifted_up_padded": shifted_up_padded,
        "shifted_down": shifted_down,
        "upside_down": upside_down,
        "left_right": left_right,
        "front_back": front_back,
        "metal": metal,
    }
)
"""Ways to spoil a CT, by name."""


def chest(seed: int, spacing_mm: tuple[float, float, float] = (3.0, 3.0, 4.0)) -> Image:
    """Slices of a phantom above its abdominal organs."""
    phantom = draw_phantom(seed, spacing_mm, "RAS", _TALL_MM)
    _, top = _abdomen(phantom)
    return part_of_height(phantom.hu, phantom.geometry, top, 1.0)


def pelvis(seed: int, spacing_mm: tuple[float, float, float] = (3.0, 3.0, 4.0)) -> Image:
    """Slices of a phantom below its abdominal organs but for bowel; the phantom has no hips."""
    phantom = draw_phantom(seed, spacing_mm, "RAS", _TALL_MM)
    bottom, _ = _abdomen(phantom)
    return part_of_height(phantom.hu, phantom.geometry, 0.0, bottom)


def part_of_height(hu: NDArray[np.int16], geometry: Geometry, low: float, high: float) -> Image:
    """Slices from one share of the height, counted from the feet, to another; voxel axes in any order."""
    axis, sign = geometry.ras_axes[2]
    n = geometry.shape[axis]
    start, stop = (round(low * n), round(high * n)) if sign > 0 else (n - round(high * n), n - round(low * n))
    slices = [slice(None)] * 3
    slices[axis] = slice(start, stop)
    part = np.ascontiguousarray(hu[tuple(slices)])
    i, j, k = part.shape
    affine = geometry.affine.copy()
    affine[:3, 3] += affine[:3, axis] * start
    return part, Geometry((i, j, k), affine)


def head(spacing_mm: float = 2.5) -> Image:
    """Brain, skull, skin, ventricles and sinuses."""
    geometry = _centred((88, 100, 80), spacing_mm)
    x, y, z = _millimetres(geometry)
    size = np.sqrt((x / 72) ** 2 + (y / 90) ** 2 + (z / 85) ** 2)
    hu = np.select([size < 0.9, size < 1.0, size < 1.08], [34.0, 900.0, 20.0], -1000.0)
    ventricles = np.sqrt(((np.abs(x) - 12) / 8) ** 2 + (y / 32) ** 2 + ((z - 8) / 14) ** 2) < 1
    sinuses = np.sqrt((x / 26) ** 2 + ((y - 62) / 16) ** 2 + ((z + 40) / 22) ** 2) < 1
    hu = np.where(ventricles, 8.0, np.where(sinuses, -950.0, hu))
    return _stored(_noisy(hu, 3)), geometry


def cylinder(hu_inside: float, spacing_mm: float = 3.0, inserts: bool = False) -> Image:
    """A quality phantom: a cylinder of 300 mm in air, with eight rods of other HU if that is wanted."""
    geometry = _centred((116, 116, 60), spacing_mm)
    x, y, _ = _millimetres(geometry)
    hu = np.where(np.hypot(x, y) < 150, hu_inside, -1000.0) + np.zeros(geometry.shape)
    for n, value in enumerate((-100, 40, 60, 90, 120, 200, 60, 900) if inserts else ()):
        at = 2 * np.pi * n / 8
        hu[(np.hypot(x - 90 * np.cos(at), y - 90 * np.sin(at)) < 20) & np.ones(geometry.shape, bool)] = value
    return _stored(_noisy(hu, 4)), geometry


def _abdomen(phantom: Phantom) -> tuple[float, float]:
    """Where the organs of the upper abdomen begin and end, with some room, as shares of the height; axes RAS."""
    organs = ("pancreas", "liver", "spleen", "kidney_left", "kidney_right", "gallbladder", "stomach", "duodenum")
    inside = np.isin(phantom.labels, [LABEL_OF[name] for name in organs]).any(axis=(0, 1))
    where = np.flatnonzero(inside)
    room = int(np.ceil(_AROUND_ABDOMEN_MM / phantom.geometry.spacing_mm[2]))
    n = phantom.labels.shape[2]
    return max(int(where[0]) - room, 0) / n, min(int(where[-1]) + 1 + room, n) / n


def _centred(shape: tuple[int, int, int], spacing_mm: float) -> Geometry:
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = [-(n - 1) / 2 * spacing_mm for n in shape]
    return Geometry(shape, affine)


def _millimetres(geometry: Geometry) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Distances from the middle along the voxel axes."""
    x, y, z = np.ogrid[tuple(slice(-(n - 1) / 2, (n - 1) / 2, complex(0, n)) for n in geometry.shape)]
    return tuple(a * s for a, s in zip((x, y, z), geometry.spacing_mm, strict=True))  # type: ignore[return-value]


def _radius(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Distance from the middle of each slice, 1 at the nearer edge."""
    x, y, _ = np.ogrid[tuple(slice(-(n - 1) / 2, (n - 1) / 2, complex(0, n)) for n in shape)]
    radius: NDArray[np.float64] = np.hypot(x, y) / (min(shape[:2]) / 2)
    return radius


def _flipped(hu: NDArray[np.int16], geometry: Geometry, world: int) -> NDArray[np.int16]:
    """The array flipped along the voxel axis that lies along a world axis."""
    return np.ascontiguousarray(np.flip(hu, geometry.ras_axes[world][0]))


def _noisy(hu: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    return hu + np.random.default_rng(seed).normal(0, 10, hu.shape)


def _stored(hu: NDArray[np.floating]) -> NDArray[np.int16]:
    return np.rint(np.clip(hu, -4096, 4095)).astype(np.int16)
