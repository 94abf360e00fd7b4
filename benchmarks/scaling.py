"""Time and peak memory of `pancreas-seg segment`, as a process, against the number of slices.

    .venv/bin/python benchmarks/scaling.py [--slices 100 224 400 700 1000] [--weights FILE] [--turns 1] [--quick]

The CT is a phantom of 512×512×224 (`phantom_scans.py`). Fewer slices are cut from its middle; more are its outermost 24
slices at each end, without pancreas, back and forth, so that the body goes on as in a scan of the trunk. Slices stay
1.2 mm thick. "time against volume" is the stages' seconds per voxel, without start-up, with the shortest CT of at least
200 slices as 1: above 1, time grows faster than the volume.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measured import Cost, goal, machine, median, run, table, warm_up
from phantom_scans import CACHE, SIZES, lengthened, scan

from pancreas_seg.io import read_ct, write_image

LARGEST_GB = 3.0
FROM_SLICES = 200
"""Shorter CTs don't show how time grows: the fine stage, which all have alike, is most of theirs."""


def scan_of(cache: Path, slices: int, size: str) -> Path:
    """The CT of so many slices, made by a process of its own if it isn't there."""
    source, _ = scan(cache, size)
    if slices == SIZES[size].shape[2]:
        return source
    path = _lengthened_file(cache, size, slices)
    if not path.exists():
        making = [sys.executable, __file__, "--cache", cache, "--lengthen", slices, *["--quick"] * (size == "quick")]
        subprocess.run(list(map(str, making)), check=True)
    return path


def write_lengthened(cache: Path, size: str, slices: int) -> None:
    """Write the CT with another number of slices (`phantom_scans.lengthened`)."""
    ct = read_ct(scan(cache, size)[0])
    image, geometry = lengthened(np.rint(ct.image).astype(np.int16), ct.geometry, slices)
    write_image(_lengthened_file(cache, size, slices), image, geometry)


def _lengthened_file(cache: Path, size: str, slices: int) -> Path:
    return cache / f"ct_{size}_{slices}_slices.nii.gz"


@dataclass(frozen=True)
class Point:
    """What segmenting a CT of so many slices cost; ``in_stages_s`` leaves out start-up."""

    slices: int
    voxels: int
    cost: Cost
    in_stages_s: float
    said: str

    @property
    def stage_s_per_voxel(self) -> float:
        return self.in_stages_s / self.voxels


def measured(ct: Path, weights: str, turns: int, log: Path) -> Point:
    """Segment a CT some times, each in a process of its own; medians."""
    costs, stages = [], []
    facts: dict[str, Any] = {}
    for _ in range(turns):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pancreas_seg", "segment", ct, "--out", folder, "--weights", weights]
            costs.append(run(command, log=log))
            facts = json.loads(next(Path(folder).glob("*/result.json")).read_text())
            stages.append(sum(facts["timings_s"].values()))
    shape = facts["input"]["shape"]
    said = f"{facts['mode']}, {facts['verdict']}, {facts['volume_ml'].get('pancreas', 0):.1f} ml"
    return Point(shape[2], math.prod(shape), median(costs), statistics.median(stages), said)


def report(points: list[Point]) -> str:
    """The table of figures and that of the goals."""
    base = next((p for p in points if p.slices >= FROM_SLICES), points[0]).stage_s_per_voxel
    lines = [
        [
            p.slices,
            f"{p.voxels / 1e6:.1f}",
            *(f"{seconds:.1f}" for seconds in (p.cost.wall_s, p.cost.cpu_s, p.in_stages_s)),
            f"{p.cost.peak_gb:.2f}",
            f"{p.stage_s_per_voxel / base:.2f}",
            p.said,
        ]
        for p in points
    ]
    header = ["slices", "million voxels", "wall s", "CPU s", "in stages s", "peak GB", "time against volume", "result"]
    peak, growth = points[-1].cost.peak_gb, points[-1].stage_s_per_voxel / base
    goals = [
        goal(f"peak GB of {points[-1].slices} slices; at most {LARGEST_GB:g}", peak, peak <= LARGEST_GB),
        goal("time of the longest CT against its volume; at most 1", growth, growth <= 1),
    ]
    return f"{table(header, lines)}\n\n{table(['goal', 'reached', ''], goals)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cache", type=Path, default=CACHE, help=f"default {CACHE}")
    parser.add_argument("--slices", type=int, nargs="+", default=(100, 224, 400, 700, 1000))
    parser.add_argument("--weights", default="starter", help="default: starter")
    parser.add_argument("--turns", type=int, default=1, help="runs of each (default 1)")
    parser.add_argument("--quick", action="store_true", help="a small CT, to see that it works")
    parser.add_argument("--lengthen", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = "quick" if options.quick else "full"
    if options.lengthen:
        write_lengthened(options.cache, size, options.lengthen)
        return
    options.cache.mkdir(parents=True, exist_ok=True)
    scans = [scan_of(options.cache, slices, size) for slices in sorted(options.slices)]
    print(machine("torch", "monai", "numpy", "openvino"), flush=True)
    warm_up(scan(options.cache, "quick")[0], options.weights, options.cache / "scaling.log")
    points = []
    for ct in scans:
        points.append(measured(ct, options.weights, options.turns, options.cache / "scaling.log"))
        print(f"{points[-1].slices} slices: {points[-1].cost.wall_s:.1f} s, {points[-1].said}", flush=True)
    pixels = "x".join(map(str, SIZES[size].shape[:2]))
    print(f"\n{pixels} pixels, weights {options.weights}, medians of {options.turns} turns\n\n{report(points)}")


if __name__ == "__main__":
    main()
