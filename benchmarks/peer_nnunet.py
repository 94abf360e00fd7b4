"""One CT through nnU-Net's predictor with plans as TotalSegmentator's, beside `pancreas-seg segment`; speed and memory.

    .venv/bin/python benchmarks/peer_nnunet.py [--ct FILE] [--plans 3mm 1.5mm] [--cache DIR] [--quick]

nnunetv2 is installed in a virtual environment of its own in the cache (about 2 GB). Its networks have random weights,
so that speed and memory alone can be compared: these plans tell many organs apart, ours finds the pancreas. The peer
does what TotalSegmentator does with a CT, in one process (`plain_nnunet.py`); ours is the whole command with the
starter weights. Each is a process, run one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from measured import Cost, machine, median, run, table, warm_up
from phantom_scans import CACHE, SIZES, scan

HERE = Path(__file__).parent
NNUNET = "nnunetv2==2.8.1"
OURS = "ours, starter"


def environment(cache: Path) -> Path:
    """The Python of the environment with nnunetv2 and our version of torch, made if it isn't there."""
    folder = cache / "nnunet_venv"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    ready = folder / f"{NNUNET}.ready"
    if not ready.exists():
        venv.create(folder, with_pip=True)
        pinned = metadata.version("torch").split("+")[0]
        subprocess.run([python, "-m", "pip", "install", "-q", f"torch=={pinned}", NNUNET], check=True)
        ready.touch()
    return python


def measured(
    commands: Mapping[str, Sequence[str | Path]], turns: int, log: Path
) -> tuple[dict[str, Cost], dict[str, str]]:
    """Run each command in turn, OUT standing for a new folder; median costs, and the last run's stages."""
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    stages = {}
    for turn in range(turns):
        for name, command in commands.items():
            with tempfile.TemporaryDirectory() as out:
                costs[name].append(run([str(word).replace("OUT", out) for word in command], log=log))
                facts = json.loads(next(Path(out).rglob("*.json")).read_text())
            stages[name] = ", ".join(f"{key} {seconds:.1f}" for key, seconds in facts["timings_s"].items())
            print(f"turn {turn + 1} of {turns}: {name}: {costs[name][-1].wall_s:.1f} s", flush=True)
    return {name: median(each) for name, each in costs.items()}, stages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--ct", type=Path, help="default: the phantom of the other benchmarks")
    parser.add_argument("--plans", nargs="+", default=("3mm", "1.5mm"), help="default 3mm 1.5mm")
    parser.add_argument("--cache", type=Path, default=CACHE, help=f"default {CACHE}")
    parser.add_argument("--turns", type=int, default=1, help="runs of each, in turn (default 1)")
    parser.add_argument("--quick", action="store_true", help="a small CT, to see that it works")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    size = "quick" if options.quick else "full"
    ct = options.ct or scan(options.cache, size)[0]
    peer = [environment(options.cache), HERE / "plain_nnunet.py"]
    commands: dict[str, Sequence[str | Path]] = {}
    for plan in options.plans:
        model = options.cache / f"nnunet_{plan}"
        subprocess.run([*peer, "make", model, "--plan", plan], check=True, stdout=subprocess.DEVNULL)
        commands[f"nnU-Net, plan of TotalSegmentator {plan}"] = [*peer, "predict", model, ct, "OUT/mask.nii.gz"]
    commands[OURS] = [sys.executable, "-m", "pancreas_seg", "segment", ct, "--out", "OUT"]
    print(f"{machine('torch', 'monai', 'numpy', 'openvino')}, {NNUNET.replace('==', ' ')}", flush=True)
    warm_up(scan(options.cache, "quick")[0], "starter", options.cache / "peer_nnunet.log")
    costs, stages = measured(commands, options.turns, options.cache / "peer_nnunet.log")
    ours, lines = costs[OURS], []
    for name, cost in costs.items():
        ratios = [f"{cost.wall_s / ours.wall_s:.1f}", f"{cost.peak_gb / ours.peak_gb:.1f}"]
        figures = [f"{cost.wall_s:.1f}", f"{cost.cpu_s:.1f}", f"{cost.peak_gb:.2f}"]
        lines.append([name, *figures, *ratios, stages[name]])
    print(f"\nCT {SIZES[size] if options.ct is None else 'given'}; medians of {options.turns} turns\n")
    print(table(["", "wall s", "CPU s", "peak GB", "times ours, s", "times ours, GB", "stages, s"], lines))


if __name__ == "__main__":
    main()
