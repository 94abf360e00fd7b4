"""The CTs of the speed benchmarks: phantoms at a CT's size, drawn once and kept in a folder.

    .venv/bin/python benchmarks/phantom_scans.py OUT [--shape 512 512 224] [--slice-mm 1.2] [--seed 4 0]

Their field of view is 400 mm square with the pancreas in its middle; voxels have the spacing that gives the number of
pixels asked for. OUT gets ct_SHAPE_SEED.nii.gz and labels_SHAPE_SEED.nii.gz. Drawing the default takes about a minute
and 4 GB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.data.phantom import LABELS, draw_phantom
from pancreas_seg.geometry import Geometry
from pancreas_seg.io import read_mask, write_image

CACHE = Path(tempfile.gettempdir()) / "pancreas-seg-benchmarks"
FIELD_MM = 400.0
FULL = (512, 512, 224)
QUICK = (160, 160, 70)
SEED = (4, 0)
SLICE_MM = 1.2


def scan(
    out: Path, shape: tuple[int, int, int] = FULL, slice_mm: float = SLICE_MM, seed: tuple[int, ...] = SEED
) -> tuple[Path, Path]:
    """The files of a CT and its labels, drawn by a process of its own if they aren't there."""
    name = f"{'x'.join(map(str, shape))}_{slice_mm:g}mm_{'-'.join(map(str, seed))}.nii.gz"
    ct, labels = out / f"ct_{name}", out / f"labels_{name}"
    if not (ct.exists() and labels.exists()):
        words = [out, "--shape", *shape, "--slice-mm", slice_mm, "--seed", *seed]
        subprocess.run([sys.executable, __file__, *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    return ct, labels


def quick_slice_mm(shape: tuple[int, int, int]) -> float:
    """The slice spacing with which a smaller CT shows as much of the body as the full one."""
    return SLICE_MM * FULL[2] / shape[2]


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
    parser.add_argument("--shape", type=int, nargs=3, default=FULL)
    parser.add_argument("--slice-mm", type=float, default=SLICE_MM)
    parser.add_argument("--seed", type=int, nargs="+", default=SEED)
    options = parser.parse_args()
    i, j, k = options.shape
    spacing_mm = (FIELD_MM / i, FIELD_MM / j, options.slice_mm)
    phantom = draw_phantom(options.seed, spacing_mm, extent_mm=(FIELD_MM, FIELD_MM, k * options.slice_mm))
    name = f"{i}x{j}x{k}_{options.slice_mm:g}mm_{'-'.join(map(str, options.seed))}.nii.gz"
    print(write_image(options.out / f"labels_{name}", phantom.labels, phantom.geometry))
    print(write_image(options.out / f"ct_{name}", phantom.hu, phantom.geometry))


if __name__ == "__main__":
    main()
