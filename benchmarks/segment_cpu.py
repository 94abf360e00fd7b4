"""One 512×512×224 CT segmented on the CPU: plain MONAI, ours `full`, ours `cascade`, each as a whole process.

    .venv/bin/python benchmarks/segment_cpu.py [--cache DIR] [--turns 3] [--quick]

All three run the same fine network (`fine_weights.py`: 1.5 mm, 96³ windows, overlap 0.5) over the same phantom
(`phantom_scans.py`); `cascade` has the starter's coarse network in front. Plain MONAI is `plain_monai.py`. They take
turns after an uncounted run of ours, and figures are medians. CT and weights are made once and kept in the cache.
Prints the figures and the goals.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from measured import Cost, goal, machine, median, run, table, warm_up
from numpy.typing import NDArray
from phantom_scans import CACHE, SIZES, pancreas, scan

from pancreas_seg.io import read_mask

HERE = Path(__file__).parent


@dataclass
class Row:
    """A way to segment: its command, in which OUT stands for the folder it writes to, and what its runs gave."""

    name: str
    command: list[str]
    mask: str
    facts: str
    costs: list[Cost] = field(default_factory=list)
    stages: list[dict[str, float]] = field(default_factory=list)
    found: NDArray[np.bool_] | None = None
    said: str = ""

    def turn(self, log: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.costs.append(run([word.replace("OUT", folder) for word in self.command], log=log))
            facts = json.loads((Path(folder) / self.facts).read_text())
            self.stages.append(facts.get("timings_s", facts))
            self.found = read_mask(Path(folder) / self.mask).labels == 1
            if "verdict" in facts:
                codes = [reason["code"] for reason in facts["reasons"]]
                growths = (facts["cascade"] or {}).get("growths", 0)
                self.said = (
                    f"mode {facts['mode']}, {facts['engine']} {facts['precision']}, verdict {facts['verdict']} {codes}"
                )
                self.said += f", box grown {growths} times" if growths else ""

    @property
    def stage_s(self) -> dict[str, float]:
        return {name: statistics.median(stages[name] for stages in self.stages) for name in self.stages[0]}

    @property
    def in_stages_s(self) -> float:
        return statistics.median(sum(stages.values()) for stages in self.stages)


def dice(a: NDArray[np.bool_] | None, b: NDArray[np.bool_] | None) -> float:
    """2·|a ∩ b| / (|a| + |b|); NaN if both are empty."""
    if a is None or b is None or not (a.any() or b.any()):
        return float("nan")
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def rows(ct: Path, fine: Path, packed: Path, window_batch: int) -> list[Row]:
    ours = [sys.executable, "-m", "pancreas_seg", "segment", str(ct), "--out", "OUT"]
    case = ct.name.removesuffix(".nii.gz")
    plain = [sys.executable, str(HERE / "plain_monai.py"), str(ct), "OUT", "--weights", str(fine)]
    plain += ["--window-batch", str(window_batch)]
    files = (f"{case}/mask.nii.gz", f"{case}/result.json")
    return [
        Row("plain MONAI", plain, "mask.nii.gz", "stages.json"),
        Row("ours, full", [*ours, "--weights", str(fine), "--mode", "full"], *files),
        Row("ours, cascade", [*ours, "--weights", str(packed), "--mode", "cascade"], *files),
    ]


def figures(done: Sequence[Row], labels: Path) -> str:
    reference = pancreas(labels)
    plain, full, _ = done
    lines = []
    for row in done:
        cost = median(row.costs)
        spread = f"{min(c.wall_s for c in row.costs):.1f} to {max(c.wall_s for c in row.costs):.1f}"
        lines.append(
            [
                row.name,
                f"{cost.wall_s:.1f}" + (f" ({spread})" if len(row.costs) > 1 else ""),
                f"{cost.cpu_s:.1f}",
                f"{cost.system_s:.1f}",
                f"{cost.peak_gb:.2f}",
                f"{row.in_stages_s:.1f}",
                f"{dice(row.found, plain.found):.4f}",
                f"{dice(row.found, full.found):.4f}",
                f"{dice(row.found, reference):.4f}",
            ]
        )
    header = ["", "wall s", "CPU s", "of it system s", "peak GB", "in stages s"]
    return table([*header, "Dice: plain", "Dice: full", "Dice: labels"], lines)


def goals(done: Sequence[Row]) -> str:
    plain, full, cascade = done
    full_ratio, cascade_ratio = (plain.in_stages_s / row.in_stages_s for row in (full, cascade))
    whole = median(plain.costs).wall_s / median(cascade.costs).wall_s
    peak = max(median(row.costs).peak_gb for row in (full, cascade))
    near_plain, near_full = dice(full.found, plain.found), dice(cascade.found, full.found)
    lines = [
        goal("full: times faster than plain, in stages; at least 4", full_ratio, full_ratio >= 4),
        goal("full: Dice against plain; at least 0.995", near_plain, near_plain >= 0.995),
        goal("cascade: times faster than plain, in stages; at least 25", cascade_ratio, cascade_ratio >= 25),
        goal("cascade: Dice against full; at least 0.98", near_full, near_full >= 0.98),
        goal("peak GB of both, imports included; at most 1.5", peak, peak <= 1.5),
        goal("cascade: times faster than plain, whole command; at least 10", whole, whole >= 10),
    ]
    return table(["goal", "reached", ""], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cache", type=Path, default=CACHE, help=f"default {CACHE}")
    parser.add_argument("--turns", type=int, default=1, help="runs of each, in turn (default 1)")
    parser.add_argument("--steps", type=int, default=0, help="of the weights' training (default 0)")
    parser.add_argument("--window-batch", type=int, default=1, help="plain MONAI's windows at once (default 1)")
    parser.add_argument("--quick", action="store_true", help="a small CT, to see that it works")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    making = [sys.executable, str(HERE / "fine_weights.py"), str(options.cache), "--steps", str(options.steps)]
    made = subprocess.run(making, check=True, stdout=subprocess.PIPE, text=True)
    fine, packed = map(Path, made.stdout.split("\n")[:2])
    size = "quick" if options.quick else "full"
    ct, labels = scan(options.cache, size)
    print(machine("torch", "monai", "numpy", "openvino"), flush=True)
    for weights in (fine, packed):
        warm_up(scan(options.cache, "quick")[0], weights, options.cache / "segment_cpu.log")
    done = rows(ct, fine, packed, options.window_batch)
    for turn in range(options.turns):
        for row in done:
            row.turn(options.cache / "segment_cpu.log")
            print(
                f"turn {turn + 1} of {options.turns}: {row.name}: {row.costs[-1].wall_s:.1f} s {row.said}", flush=True
            )
    print(f"\nCT {SIZES[size]}; weights of {options.steps} steps; medians of {options.turns} turns\n")
    print(figures(done, labels))
    print()
    print(table(["", "stages, s"], [(r.name, ", ".join(f"{n} {s:.2f}" for n, s in r.stage_s.items())) for r in done]))
    print()
    print(goals(done))


if __name__ == "__main__":
    main()
