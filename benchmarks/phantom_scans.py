"""The CTs of the speed benchmarks: phantoms at a CT's size, drawn once and kept in a folder.

    .venv/bin/python benchmarks/phantom_scans.py OUT [--size full|quick|cohort] [--seed 4 0]

The field of view is a square with the pancreas in its middle. OUT gets ct_SIZE_SEED.nii.gz and labels_SIZE_SEED.nii.gz.
Drawing the full size takes some minutes and 4 GB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.data.phantom import LABELS, draw_phantom
from pancreas_seg.geometry import Geometry
from pancreas_seg.io import read_mask, write_image

CACHE = Path(tempfile.gettempdir()) / "pancreas-seg-benchmarks"
SEED = (4, 0)


@dataclass(frozen=True)
class Size:
    """Voxels of a CT, the width of its field of view, and the spacing of its slices."""

    shape: tuple[int, int, int]
    field_mm: float
    slice_mm: float

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return self.field_mm / self.shape[0], self.field_mm / self.shape[1], self.slice_mm

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape))}, {' x '.join(f'{mm:.3g}' for mm in self.spacing_mm)} mm"


SIZES = {
    "full": Size((512, 512, 224), 400.0, 1.2),
    "cohort": Size((512, 512, 100), 400.0, 2.4),
    "quick": Size((160, 160, 56), 200.0, 2.5),
}


def scan(out: Path, size: str = "full", seed: tuple[int, ...] = SEED) -> tuple[Path, Path]:
    """The files of a CT and its labels, drawn by a process of its own if they aren't there."""
    ct, labels = files(out, size, seed)
    if not ct.exists():
        words = [out, "--size", size, "--seed", *seed]
        subprocess.run([sys.executable, __file__, *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    return ct, labels


def files(out: Path, size: str, seed: tuple[int, ...]) -> tuple[Path, Path]:
    name = f"{size}_{'-'.join(map(str, seed))}.nii.gz"
    return out / f"ct_{name}", out / f"labels_{name}"


def pancreas(labels: Path) -> NDArray[np.bool_]:
    """Where the pancreas is in a phantom's label file, (I, J, K)."""
    return read_mask(labels).labels == next(value for value, name in LABELS.items() if name == "pancreas")


def lengthened(
    image: NDArray[np.int16], geometry: Geometry, slices: int, end: int = 24
) -> tuple[NDArray[np.int16], Geometry]:
    """A CT (I, J, K) with another number of slices of the same thickness.

    Fewer are cut from the middle. More are its first and last ``end`` slices, which hold no pancreas, back and forth.
    """
    have = image.shape[2]
    before = (slices - have) // 2
    if before >= 0:
        first = np.pad(np.arange(end), (before, 0), mode="symmetric")[:before]
        last = have - end + np.pad(np.arange(end), (0, slices - have - before), mode="symmetric")[end:]
        order = np.concatenate([first, np.arange(have), last])
    else:
        order = np.arange(-before, -before + slices)
    affine = geometry.affine.copy()
    affine[:3, 3] = geometry.world((0.0, 0.0, float(-before)))
    return image[:, :, order], Geometry((image.shape[0], image.shape[1], slices), affine)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--seed", type=int, nargs="+", default=SEED)
    options = parser.parse_args()
    size, seed = SIZES[options.size], tuple(options.seed)
    extent_mm = (size.field_mm, size.field_mm, size.shape[2] * size.slice_mm)
    phantom = draw_phantom(seed, size.spacing_mm, extent_mm=extent_mm)
    ct, labels = files(options.out, options.size, seed)
    print(write_image(labels, phantom.labels, phantom.geometry))
    print(write_image(ct, phantom.hu, phantom.geometry))


if __name__ == "__main__":
    main()
