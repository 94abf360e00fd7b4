"""HU and labels on a grid, and the ways to paint on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pancreas_seg.data.phantom import outline
from pancreas_seg.data.phantom.patient import Patient
from pancreas_seg.data.phantom.shapes import MARGIN_MM, Array, Axes, tube_distance

Region = tuple[slice, slice, slice]


@dataclass
class Canvas:
    """HU and labels on a grid with axes to the Right, Anterior and Superior.

    Parameters
    ----------
    axes : three ascending arrays
        Coordinates of the voxel centres, mm.
    blur_mm : float
        Width over which a border goes from one tissue to the other.
    patient : Patient
    """

    axes: Axes
    blur_mm: float
    patient: Patient
    hu: Array = field(init=False)
    labels: NDArray[np.uint8] = field(init=False)

    def __post_init__(self) -> None:
        shape = tuple(len(a) for a in self.axes)
        self.hu = np.full(shape, -1000.0, np.float32)
        self.labels = np.zeros(shape, np.uint8)

    @cached_property
    def fine(self) -> Array:
        """Texture with detail of about 5 mm."""
        return self.patient.noise("fine", 5.0).on(self.axes)

    @cached_property
    def coarse(self) -> Array:
        """Texture with detail of about 14 mm."""
        return self.patient.noise("coarse", 14.0).on(self.axes)

    @cached_property
    def cavity(self) -> Array:
        """Distance to the inner surface of the abdominal and chest wall."""
        return outline.contour(self.patient, self.axes, "cavity")

    @cached_property
    def wall(self) -> Array:
        """Distance to the outer surface of the muscles of the wall."""
        return outline.contour(self.patient, self.axes, "wall")

    @cached_property
    def dome(self) -> Array:
        """Distance to the diaphragm, negative below it."""
        return outline.dome(self.patient, self.axes)

    @property
    def everywhere(self) -> Region:
        """The whole grid."""
        x, y, z = (slice(0, len(a)) for a in self.axes)
        return x, y, z

    def full_of(self, region: Region, distance: Array) -> Callable[[Region], Array]:
        """Look up a distance known in one region from another; far outside it reads 1000."""

        def look(other: Region) -> Array:
            shape = [s.stop - s.start for s in other]
            out = np.full(shape, 1000.0, np.float32)
            low = [max(a.start, b.start) for a, b in zip(region, other, strict=True)]
            high = [min(a.stop, b.stop) for a, b in zip(region, other, strict=True)]
            if all(a < b for a, b in zip(low, high, strict=True)):
                into = tuple(slice(a - o.start, b - o.start) for a, b, o in zip(low, high, other, strict=True))
                of = tuple(slice(a - r.start, b - r.start) for a, b, r in zip(low, high, region, strict=True))
                out[into] = distance[of]
            return out

        return look

    def box(self, low: ArrayLike, high: ArrayLike) -> Region:
        """Voxels whose centres lie between two corners in mm."""
        a, b = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
        cut = [np.searchsorted(axis, (a[k], b[k])) for k, axis in enumerate(self.axes)]
        x, y, z = (slice(int(i), int(j)) for i, j in cut)
        return x, y, z

    def around(self, low: ArrayLike, high: ArrayLike) -> Region:
        """Voxels of a box given in reference coordinates, with room for the warp."""
        a, b = self.patient.rigid(np.array([low, high], dtype=np.float64))
        return self.box(a - 8.0, b + 8.0)

    def cut(self, region: Region) -> Axes:
        """The axes inside a region."""
        x, y, z = (axis[s] for axis, s in zip(self.axes, region, strict=True))
        return x, y, z

    def textured(self, region: Region, base: float, fine: float, coarse: float = 0.0) -> Array:
        """HU of a tissue with its grain."""
        out = np.float32(base) + np.float32(fine) * self.fine[region]
        if coarse:
            out += np.float32(coarse) * self.coarse[region]
        return out

    def threads(self, region: Region, name: str, step: float, width: float) -> Array:
        """Thin curved threads, 1 on their axis: where two random fields are both near 0."""
        axes = self.cut(region)
        a, b = self.patient.noise(f"{name} a", step).on(axes), self.patient.noise(f"{name} b", step).on(axes)
        return np.exp(-(a * a + b * b) / np.float32(width) ** 2)

    def paint(self, region: Region, distance: Array, hu: Array | float, label: int | None = None) -> None:
        """Lay a tissue over what is there; its border is blurred, its label is not."""
        alpha = np.clip(np.float32(0.5) - distance * np.float32(1 / self.blur_mm), 0, 1)
        target = self.hu[region]
        target += alpha * (hu - target)
        if label is not None:
            self.labels[region][distance < 0] = label

    def carve(self, region: Region, distance: Array, gap_mm: float) -> None:
        """Lay fat over a shape and a gap around it, but not over the wall of the body."""
        d = np.maximum(distance - np.float32(gap_mm), self.cavity[region] + 1)
        self.paint(region, d, self.textured(region, self.patient.hu["fat"], 5, 3), 0)

    def tubes(
        self, paths: Sequence[NDArray[np.float64]], stretch: Sequence[float] = (1.0, 1.0, 1.0)
    ) -> tuple[Region, Array]:
        """Distance to tubes along paths of x, y, z, radius; `stretch` makes the cross-section larger along an axis."""
        points = np.concatenate(paths)
        factor = np.asarray(stretch, dtype=np.float64)
        reach = (points[:, 3:] + MARGIN_MM) * factor
        region = self.box((points[:, :3] - reach).min(axis=0), (points[:, :3] + reach).max(axis=0))
        return region, tube_distance(self.cut(region), paths, factor)
