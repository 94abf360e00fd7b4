"""One patient: build, contrast phase and random streams.

Organs are given in a reference patient of medium build whose origin lies in the middle of the first lumbar vertebra,
x to the Right, y Anterior, z Superior, in mm. `Patient.place` moves reference points into the patient drawn from the
seed, `Patient.local` takes a grid back to reference coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pancreas_seg.data.phantom.shapes import Array, Axes, smooth_path
from pancreas_seg.data.phantom.texture import Noise, stream

# HU of a portal-venous scan: lowest and highest mean over patients. Typical values, not from one source.
HU_RANGE: dict[str, tuple[float, float]] = {
    "fat": (-110, -95),
    "muscle": (52, 64),
    "liver": (98, 124),
    "spleen": (115, 142),
    "pancreas": (98, 128),
    "cortex": (178, 212),
    "medulla": (150, 185),
    "aorta": (146, 190),
    "portal": (155, 186),
    "cava": (125, 160),
    "bile": (2, 14),
    "wall": (70, 95),
    "chyme": (8, 32),
    "spongy": (110, 185),
}
_CENTRE_Y = 25.0
"""Middle of the reference body from the spine to the front."""


@dataclass(frozen=True)
class Patient:
    """Build, contrast phase and random streams of one patient.

    Parameters
    ----------
    seed : ints
        What everything about the patient follows from.
    scale, wide, tall : float
        Size against the reference patient: of radii and of the spine, across, and along the body.
    deep : float
        Size from the spine to the front.
    fat_mm : float
        Thickness of the fat below the skin at the front.
    course : str
        How the pancreas runs: "oblique", "sigmoid", "horseshoe" or "inverted_v".
    hu : dict
        Mean HU of each tissue.
    warp : three fields
        Shift of each organ along x, y and z, in units of 3.5 mm.
    """

    seed: tuple[int, ...]
    scale: float
    wide: float
    tall: float
    deep: float
    fat_mm: float
    course: str
    hu: dict[str, float]
    warp: tuple[Noise, ...] = field(repr=False)

    @classmethod
    def draw(cls, seed: tuple[int, ...]) -> Patient:
        """The patient that belongs to a seed."""
        rng = stream(seed, "patient")
        scale, fatness = rng.uniform(0.93, 1.07), rng.beta(1.6, 2.0)
        phase = rng.uniform()
        hu = {}
        for name, (low, high) in HU_RANGE.items():
            # Vessels and organs of one patient are bright together, for they share the contrast phase.
            hu[name] = low + (high - low) * (0.55 * phase + 0.45 * rng.uniform())
        return cls(
            seed=seed,
            scale=scale,
            wide=scale * rng.uniform(0.96, 1.04) * (1 + 0.06 * fatness),
            tall=scale * rng.uniform(0.96, 1.04),
            deep=scale * (0.86 + 0.32 * fatness + rng.uniform(-0.03, 0.03)),
            fat_mm=5.0 + 27.0 * fatness * rng.uniform(0.7, 1.2),
            course=str(rng.choice(["oblique", "sigmoid", "horseshoe", "inverted_v"], p=[0.5, 0.2, 0.15, 0.15])),
            hu=hu,
            warp=tuple(Noise(stream(seed, f"warp{k}"), 60.0) for k in range(3)),
        )

    def rng(self, name: str) -> np.random.Generator:
        """Random stream of one organ, so that a change in one organ leaves the others as they were."""
        return stream(self.seed, name)

    @property
    def centre_y(self) -> float:
        """Where the middle of the body lies from the spine to the front, mm."""
        return float(self.rigid(np.array([[0.0, _CENTRE_Y, 0.0]]))[0, 1])

    def noise(self, name: str, step: float) -> Noise:
        """Random field of one organ."""
        return Noise(self.rng(name), step)

    def place(self, points: ArrayLike) -> NDArray[np.float64]:
        """Reference points, or a table with radii, moved into this patient."""
        out = np.array(points, dtype=np.float64).reshape(-1, np.shape(points)[-1])
        still = self.rigid(out[:, :3])
        out[:, :3] = still + np.stack([3.5 * n.at(still) for n in self.warp], axis=1)
        out[:, 3:] *= self.scale
        return out

    def local(self, axes: Sequence[Array], centre: ArrayLike | None = None) -> Axes:
        """Reference coordinates of three axes, with the shift that `place` gives the centre."""
        shift = np.zeros(3)
        if centre is not None:
            shift = self.place(centre)[0] - self.rigid(np.array([centre], dtype=np.float64))[0]
        x, y, z = (np.asarray(a - np.float32(d), dtype=np.float32) for a, d in zip(axes, shift, strict=True))
        turn = np.float32(15 * self.scale)
        y = np.where(y <= turn, y / np.float32(self.scale), 15 + (y - turn) / np.float32(self.deep))
        x, z = x / np.float32(self.wide), z / np.float32(self.tall)
        return x.reshape(-1, 1, 1), y.reshape(1, -1, 1), z.reshape(1, 1, -1)

    def rigid(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Reference points of shape (N, 3) scaled to this patient's build, without the warp of `place`."""
        x, y, z = points.T
        y = np.where(y <= 15, y * self.scale, 15 * self.scale + (y - 15) * self.deep)
        return np.stack([x * self.wide, y, z * self.tall], axis=1)

    def path(self, table: ArrayLike, step: float = 4.0, scale: float = 1.0) -> NDArray[np.float64]:
        """A reference path in this patient, shape (N, 4)."""
        placed = self.place(table)
        placed[:, 3] *= scale
        return smooth_path(placed, step)
