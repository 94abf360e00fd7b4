"""All metrics of a pair of masks: ours beside MONAI's HausdorffDistanceMetric and SurfaceDiceMetric.

Ours computes overlap, volumes, surface Dice at two tolerances, 95 % Hausdorff and mean surface distance; MONAI gets
the full volume as the tensors its metrics want (made outside the timing) and computes 95 % Hausdorff and surface Dice
at one tolerance. Runs alternate, so that a machine that slows down slows both. Prints one table with the median
seconds and the values; the ratio is MONAI's time over ours.

    .venv/bin/python benchmarks/surface_metrics.py [--pairs FOLDER] [--repeats 3]

FOLDER holds one folder per case with reference.nii.gz and prediction_*.nii.gz. Without it, the masks are the pancreas
of drawn patients on 512 x 512 x 150 voxels of 0.8 x 0.8 x 1.5 mm, and a distorted copy of it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from monai.metrics import HausdorffDistanceMetric, SurfaceDiceMetric
from numpy.typing import NDArray
from scipy import ndimage

from pancreas_seg.data.phantom import LABELS, draw_phantom
from pancreas_seg.evaluation.metrics import agreement
from pancreas_seg.io import read_mask

SHAPE = (512, 512, 150)
SPACING_MM = (0.8, 0.8, 1.5)
TOLERANCE_MM = 2.0

Pair = tuple[str, NDArray[np.bool_], NDArray[np.bool_], tuple[float, float, float]]


def drawn_pairs(seeds: range) -> Iterator[Pair]:
    """The pancreas of drawn patients; the prediction's border wanders by some millimetres."""
    value = next(value for value, name in LABELS.items() if name == "pancreas")
    for seed in seeds:
        labels = draw_phantom(seed, SPACING_MM).labels
        organ = np.argwhere(labels == value)
        block = labels[tuple(slice(max(0, a - 8), b + 9) for a, b in zip(organ.min(0), organ.max(0), strict=True))]
        mask = block == value
        rng = np.random.default_rng(seed)
        noise = ndimage.gaussian_filter(rng.normal(size=mask.shape), 4.0)
        signed = ndimage.distance_transform_edt(mask, SPACING_MM) - ndimage.distance_transform_edt(~mask, SPACING_MM)
        pair = []
        for found in (mask, signed + 1.5 * noise / noise.std() > 0):
            whole = np.zeros(SHAPE, dtype=bool, order="F")  # as nibabel and our reader give it
            corner = [(n - m) // 2 for n, m in zip(SHAPE, found.shape, strict=True)]
            whole[tuple(slice(c, c + m) for c, m in zip(corner, found.shape, strict=True))] = found
            pair.append(whole)
        yield f"drawn {seed}", pair[0], pair[1], SPACING_MM


def pairs_of_folder(folder: Path) -> Iterator[Pair]:
    for reference_path in sorted(folder.glob("*/reference.nii.gz")):
        reference = read_mask(reference_path)
        for path in sorted(reference_path.parent.glob("prediction_*.nii.gz")):
            name = f"{reference_path.parent.name} {path.name.removesuffix('.nii.gz').removeprefix('prediction_')}"
            yield name, reference.labels > 0, read_mask(path).labels > 0, reference.geometry.spacing_mm


def monai_values(y_pred: torch.Tensor, y: torch.Tensor, spacing: tuple[float, float, float]) -> tuple[float, float]:
    hausdorff = HausdorffDistanceMetric(include_background=True, percentile=95)
    surface_dice = SurfaceDiceMetric([TOLERANCE_MM], include_background=True)
    hausdorff(y_pred=y_pred, y=y, spacing=spacing)
    surface_dice(y_pred=y_pred, y=y, spacing=spacing)
    return hausdorff.aggregate().item(), surface_dice.aggregate().item()


def alternating(runs: list[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of each, after one warm-up, run in turn."""
    seconds: list[list[float]] = [[] for _ in runs]
    for repeat in range(repeats + 1):
        for run, taken in zip(runs, seconds, strict=True):
            start = time.perf_counter()
            run()
            if repeat:
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=Path, metavar="FOLDER", help="real masks instead of drawn ones")
    parser.add_argument("--repeats", type=int, default=3, help="counted runs of each (default 3)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| case | voxels | ours s | MONAI s | ratio | HD95 mm ours | MONAI | NSD 2 mm ours | MONAI | Dice |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    ratios = []
    pairs = pairs_of_folder(options.pairs) if options.pairs else drawn_pairs(range(3))
    for name, reference, prediction, spacing in pairs:
        y, y_pred = (torch.from_numpy(np.ascontiguousarray(m))[None, None].float() for m in (reference, prediction))
        ours = partial(agreement, reference, prediction, spacing, (1.0, TOLERANCE_MM))
        monai = partial(monai_values, y_pred, y, spacing)
        ours_s, monai_s = alternating([ours, monai], options.repeats)
        found, (hd95, nsd) = ours(), monai()
        ratios.append(monai_s / ours_s)
        voxels = "x".join(map(str, reference.shape))
        print(
            f"| {name} | {voxels} | {ours_s:.4f} | {monai_s:.3f} | {ratios[-1]:.0f} "
            f"| {found.hd95_mm:.5f} | {hd95:.5f} | {found.nsd[TOLERANCE_MM]:.6f} | {nsd:.6f} | {found.dice:.4f} |",
            flush=True,
        )
    print(f"\nmedian ratio {statistics.median(ratios):.0f}, smallest {min(ratios):.0f}, {len(ratios)} pairs")


if __name__ == "__main__":
    main()
