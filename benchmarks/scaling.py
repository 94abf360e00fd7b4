"""Time and peak memory of `pancreas-seg segment`, as a process, against the number of slices.

    .venv/bin/python benchmarks/scaling.py [--slices 100 224 400 700 1000] [--weights FILE] [--turns 1] [--quick]

The CT is a phantom of 512×512×224 (`phantom_scans.py`). Fewer slices are cut from its middle; more are its outermost 24
slices at each end, without pancreas, back and forth, so that the body goes on as in a scan of the trunk. Slices stay
1.2 mm thick. "against volume" is time per voxel, with the shortest CT of at least 200 slices as 1: above 1, time grows
faster than the volume.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from measured import goal, machine, median, run, table
from phantom_scans import CACHE, SIZES, lengthened, scan

from pancreas_seg.io import read_ct, write_image

LARGEST_GB = 3.0
FROM_SLICES = 200
"""Shorter CTs don't show how time grows: start-up and the pancreas, which all have alike, are most of theirs."""


def write_lengthened(source: Path, out: Path, slices: int) -> None:
    """Write a CT with another number of slices (`phantom_scans.lengthened`), if it isn't there."""
    ct = read_ct(source)
    write_image(out, *lengthened(np.rint(ct.image).astype(np.int16), ct.geometry, slices))


def scan_of(cache: Path, slices: int, size: str) -> Path:
    """The CT of so many slices, made by a process of its own if it isn't there."""
    source, _ = scan(cache, size)
    if slices == SIZES[size].shape[2]:
        return source
    path = cache / f"ct_{size}_{slices}_slices.nii.gz"
    if not path.exists():
        making = [sys.executable, __file__, "--cache", cache, "--lengthen", slices, "--size", size]
        subprocess.run(list(map(str, making)), check=True)
    return path


def row(ct: Path, slices: int, weights: str, turns: int, log: Path) -> dict[str, float | str]:
    """Segment a CT and give its figures."""
    costs, stages, facts = [], [], {}
    for _ in range(turns):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pancreas_seg", "segment", ct, "--out", folder, "--weights", weights]
            costs.append(run(command, log=log))
            facts = json.loads(next(Path(folder).glob("*/result.json")).read_text())
            stages.append(sum(facts["timings_s"].values()))
    cost = median(costs)
    rows, columns, _ = facts["input"]["shape"]
    said = f"{facts['mode']}, {facts['verdict']}, {facts['volume_ml'].get('pancreas', 0):.1f} ml"
    voxels = rows * columns * slices / 1e6
    wall, cpu, peak = cost.wall_s, cost.cpu_s, cost.peak_gb
    return {"slices": slices, "voxels": voxels, "wall": wall, "cpu": cpu, "peak": peak, "in": stages[0], "said": said}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cache", type=Path, default=CACHE, help=f"default {CACHE}")
    parser.add_argument("--slices", type=int, nargs="+", default=(100, 224, 400, 700, 1000))
    parser.add_argument("--weights", default="starter", help="default: starter")
    parser.add_argument("--turns", type=int, default=1, help="runs of each (default 1)")
    parser.add_argument("--quick", action="store_true", help="a small CT, to see that it works")
    parser.add_argument("--lengthen", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--size", default="full", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    if options.lengthen:
        out = options.cache / f"ct_{options.size}_{options.lengthen}_slices.nii.gz"
        write_lengthened(scan(options.cache, options.size)[0], out, options.lengthen)
        return
    size = "quick" if options.quick else "full"
    scans = {slices: scan_of(options.cache, slices, size) for slices in sorted(options.slices)}
    print(machine("torch", "monai", "numpy"), flush=True)
    found = []
    for slices, ct in scans.items():
        found.append(row(ct, slices, options.weights, options.turns, options.cache / "scaling.log"))
        print(f"{slices} slices: {found[-1]['wall']:.1f} s, {found[-1]['said']}", flush=True)
    per_voxel = [float(f["wall"]) / float(f["voxels"]) for f in found]
    base = next((p for f, p in zip(found, per_voxel, strict=True) if f["slices"] >= FROM_SLICES), per_voxel[0])
    header = ["slices", "million voxels", "wall s", "CPU s", "in stages s", "peak GB", "time against volume", "result"]
    lines = [
        [
            f["slices"],
            *(f"{f[key]:.1f}" for key in ("voxels", "wall", "cpu", "in")),
            f"{f['peak']:.2f}",
            f"{p / base:.2f}",
            f["said"],
        ]
        for f, p in zip(found, per_voxel, strict=True)
    ]
    largest, growth = float(found[-1]["peak"]), per_voxel[-1] / base
    goals = [
        goal(f"peak GB of {scans and max(scans)} slices; at most {LARGEST_GB:g}", largest, largest <= LARGEST_GB),
        goal("time of the longest CT against its volume; at most 1", growth, growth <= 1),
    ]
    print(f"\n{SIZES[size].shape[0]}x{SIZES[size].shape[1]} pixels, weights {options.weights}\n")
    print(table(header, lines))
    print()
    print(table(["goal", "reached", ""], goals))


if __name__ == "__main__":
    main()
