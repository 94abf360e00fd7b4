"""Cases per hour of `pancreas-seg segment FOLDER`, as a process, with one job and with two.

    .venv/bin/python benchmarks/cohort.py [--cases 16] [--jobs 1 2] [--weights FILE] [--quick]

The CTs are phantoms of different patients, 512×512×100 (`phantom_scans.py`), drawn once and kept in the cache; drawing
all takes about ten minutes. What reading and writing cost is what result.json says: their seconds, and their share of
all stages' seconds. With several jobs stages of different cases overlap, so the sum can exceed the wall time. The peak
is that of the largest process.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from measured import Cost, machine, run, table, warm_up
from phantom_scans import CACHE, SIZES, scan


def folder_of_scans(cache: Path, size: str, cases: int) -> Path:
    """A folder with links to so many CTs, which are drawn if they aren't there."""
    folder = cache / f"{size}_{cases}"
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(cases):
        link = folder / f"case_{n:02d}.nii.gz"
        ct, _ = scan(cache, size, (200, n))
        if not link.exists():
            link.symlink_to(ct.resolve())
    return folder


def segmented(
    scans: Path, weights: str, jobs: list[str], log: Path
) -> tuple[Cost, list[dict[str, Any]], dict[str, str]]:
    """What a run cost, the facts of its cases, and the hash of each mask."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "pancreas_seg", "segment", scans, "--weights", weights, "--out", out, *jobs]
        cost = run(command, log=log)
        with (Path(out) / "summary.csv").open(newline="") as file:
            cases = [line["case"] for line in csv.DictReader(file)]
        facts = [json.loads((Path(out) / case / "result.json").read_text()) for case in cases]
        masks = {case: hashlib.sha256((Path(out) / case / "mask.nii.gz").read_bytes()).hexdigest() for case in cases}
        return cost, facts, masks


def line(name: str, cost: Cost, facts: list[dict[str, Any]]) -> list[str]:
    spent = {key: sum(fact["timings_s"].get(key, 0.0) for fact in facts) for key in ("read", "write")}
    stages = sum(sum(fact["timings_s"].values()) for fact in facts)
    return [
        name,
        f"{len(facts)}",
        f"{cost.wall_s:.1f}",
        f"{cost.cpu_s:.1f}",
        f"{3600 * len(facts) / cost.wall_s:.0f}",
        f"{cost.peak_gb:.2f}",
        *(f"{seconds / len(facts):.2f} ({100 * seconds / stages:.0f} %)" for seconds in spent.values()),
        f"{sum(fact['verdict'] == 'ok' for fact in facts)}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cache", type=Path, default=CACHE, help=f"default {CACHE}")
    parser.add_argument("--cases", type=int, default=16, help="default 16")
    parser.add_argument("--jobs", type=int, nargs="+", default=(1, 2), help="default 1 2; 0 leaves the option away")
    parser.add_argument("--weights", default="starter", help="default: starter")
    parser.add_argument("--quick", action="store_true", help="small CTs, to see that it works")
    options = parser.parse_args()
    size = "quick" if options.quick else "cohort"
    scans = folder_of_scans(options.cache, size, options.cases)
    print(machine("torch", "monai", "numpy", "openvino"), flush=True)
    warm_up(scan(options.cache, "quick")[0], options.weights, options.cache / "cohort.log")
    lines, masks = [], []
    for jobs in options.jobs:
        extra = ["--jobs", str(jobs)] if jobs else []
        cost, facts, hashes = segmented(scans, options.weights, extra, options.cache / "cohort.log")
        masks.append(hashes)
        lines.append(line(f"{jobs} jobs" if jobs else "without --jobs", cost, facts))
        print(f"{lines[-1][0]}: {cost.wall_s:.1f} s", flush=True)
    header = [
        "",
        "cases",
        "wall s",
        "CPU s",
        "cases per hour",
        "peak GB",
        "read s a case",
        "write s a case",
        "verdict ok",
    ]
    print(f"\n{options.cases} CTs of {SIZES[size]}; weights {options.weights}\n")
    print(table(header, lines))
    print(f"\nthe same masks with each number of jobs: {'yes' if all(m == masks[0] for m in masks) else 'NO'}")


if __name__ == "__main__":
    main()
