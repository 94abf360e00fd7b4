"""One window through each engine: GFLOP/s achieved, against what a bare convolution reaches on this machine.

    .venv/bin/python benchmarks/engines.py [--cache DIR] [--turns 5]

Networks: the starter's fine and coarse ones, and the preset `default` with random weights on 96×96×96. The window is
cut from a phantom around its pancreas (`phantom_scans.py`). GFLOP are those of the network's convolutions, 2 for each
multiply-add; whatever else the network does counts as time only. The peak of a number format is the best of bare 3×3×3
convolutions in the same run: by torch, by OpenVINO, and by OpenVINO four in a row, which spreads the cost of bringing
the input into its own layout. Everything runs in turn, and the best time of each counts. Probabilities and classes are
compared with those of torch in fp32, over all voxels of the window.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measured import goal, machine, table
from numpy.typing import NDArray
from phantom_scans import CACHE, pancreas, scan
from torch.utils.flop_counter import FlopCounterMode

from pancreas_seg.config import Config
from pancreas_seg.config.presets import load_preset
from pancreas_seg.data.model_grid import image_on_grid
from pancreas_seg.geometry import Geometry
from pancreas_seg.io import read_ct
from pancreas_seg.network.attention_unet import AttentionUNet
from pancreas_seg.network.engine import EngineName, make_engine
from pancreas_seg.network.precision import cpu_computes_bf16
from pancreas_seg.network.stages import load_stages
from pancreas_seg.network.weights import Weights

BARE = ((64, 48), (128, 24), (128, 48))
"""Channels in and out, and voxels along each side, of the bare convolutions."""

FINE = "starter, fine"
GOAL_PERCENT = 65


@dataclass
class Run:
    """Something to time: what it computes, and its best time so far."""

    name: tuple[str, str, str]
    gflop: float
    call: Callable[[], object]
    best_s: float = float("inf")

    def turn(self) -> None:
        start = time.perf_counter()
        self.call()
        self.best_s = min(self.best_s, time.perf_counter() - start)

    @property
    def gflop_per_s(self) -> float:
        return self.gflop / self.best_s


def networks() -> dict[str, Weights]:
    """The networks to run, by name."""
    starter = load_stages("starter")
    found = {FINE: starter.fine[0]}
    if starter.coarse is not None:
        found["starter, coarse"] = starter.coarse
    config = load_preset("default").changed({"data": {"patch_size": [96, 96, 96]}})
    torch.manual_seed(0)
    arrays = {name: value.numpy() for name, value in AttentionUNet.from_config(config).state_dict().items()}
    return {**found, "preset default": Weights(arrays, config, {}, "", Path("random"))}


def window(config: Config, ct: Path, labels: Path) -> NDArray[np.float32]:
    """A CT's window (1, 1, *patch_size) as the network sees it, the pancreas in its middle."""
    image = read_ct(ct)
    centre = image.geometry.world(tuple(np.argwhere(pancreas(labels)).mean(axis=0)))
    affine = np.diag([*config.data.spacing_mm, 1.0])
    affine[:3, 3] = np.asarray(centre) - affine[:3, :3] @ ((np.array(config.data.patch_size) - 1) / 2)
    i, j, k = config.data.patch_size
    return image_on_grid(image.image, image.geometry, Geometry((i, j, k), affine), config)[None, None]


def gflop_of(weights: Weights, x: NDArray[np.float32]) -> float:
    """GFLOP of a network's convolutions for a window."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        weights.network()(torch.from_numpy(x))
    counts = counter.get_flop_counts()["Global"]
    return float(sum(n for operation, n in counts.items() if "convolution" in str(operation))) / 1e9


def engine_runs(
    name: str, weights: Weights, x: NDArray[np.float32], kinds: Sequence[tuple[EngineName, str]]
) -> tuple[list[Run], list[list[str]]]:
    """The network on each engine, and how its probabilities differ from those of the first, torch in fp32."""
    gflop, classes = gflop_of(weights, x), range(weights.config.out_channels)
    runs, lines, reference = [], [], np.zeros(0)
    for kind, precision in kinds:
        engine = make_engine([weights], weights.config.changed({"infer": {"precision": precision}}), kind, "cpu")
        found = engine.probabilities(x, classes)
        reference = reference if runs else found
        alike = found.argmax(axis=1) == reference.argmax(axis=1)
        differs = [f"{np.abs(found - reference).mean():.1e}", f"{100 * alike.mean():.2f} %"] if runs else ["-", "-"]
        runs.append(Run((name, kind, precision), gflop, partial(engine.probabilities, x, classes)))
        lines.append(differs)
    foreground = 100 * float((reference.argmax(axis=1) > 0).mean())
    size = "×".join(map(str, x.shape[2:]))
    print(f"{name}: window {size}, {gflop:.2f} GFLOP, {foreground:.1f} % of its voxels foreground", flush=True)
    return runs, lines


def bare_runs(kinds: Sequence[tuple[EngineName, str]]) -> list[Run]:
    """Bare 3×3×3 convolutions on each engine."""
    runs = []
    for channels, side in BARE:
        gflop = 2 * 27 * channels**2 * side**3 / 1e9
        rng = np.random.default_rng(0)
        x = rng.standard_normal((1, channels, side, side, side), dtype=np.float32)
        weight = rng.standard_normal((channels, channels, 3, 3, 3), dtype=np.float32) / np.float32(
            np.sqrt(27 * channels)
        )
        for kind, precision in kinds:
            for n in (1,) if kind == "torch" else (1, 4):
                what = f"{n} × {channels} to {channels} channels on {side}³"
                call = _by_torch(x, weight, precision) if kind == "torch" else _by_openvino(x, weight, precision, n)
                runs.append(Run((what, kind, precision), n * gflop, call))
    return runs


def _by_torch(x: NDArray[np.float32], weight: NDArray[np.float32], precision: str) -> Callable[[], object]:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    given, kernel = (
        torch.from_numpy(a).to(dtype).contiguous(memory_format=torch.channels_last_3d) for a in (x, weight)
    )

    def call() -> object:
        with torch.inference_mode():
            return torch.conv3d(given, kernel, padding=1)

    return call


def _by_openvino(
    x: NDArray[np.float32], weight: NDArray[np.float32], precision: str, repeats: int
) -> Callable[[], object]:
    import openvino
    from openvino import opset15 as ops

    from pancreas_seg.network.cpus import available_cpus

    image: Any = ops.parameter(list(x.shape), np.float32)
    node = image
    for _ in range(repeats):
        node = ops.convolution(node, ops.constant(weight), [1] * 3, [1] * 3, [1] * 3, [1] * 3)
    options = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": available_cpus(),
    }
    compiled = openvino.Core().compile_model(openvino.Model([node], [image], "bare"), "CPU", options)
    request = compiled.create_infer_request()
    return lambda: request.infer([x], share_inputs=True, share_outputs=True)


def peaks(bare: Sequence[Run]) -> dict[str, float]:
    """GFLOP/s of the best bare convolution in each number format."""
    best: dict[str, float] = {}
    for run in bare:
        best[run.name[2]] = max(best.get(run.name[2], 0.0), run.gflop_per_s)
    return best


def goal_line(runs: Sequence[Run], peak: dict[str, float]) -> str:
    shares = [100 * run.gflop_per_s / peak["bf16"] for run in runs if run.name[0] == FINE and run.name[2] == "bf16"]
    share = max(shares)
    text = f"fine network, fastest engine: percent of the bf16 peak; at least {GOAL_PERCENT}"
    return table(["goal", "reached", ""], [goal(text, share, share >= GOAL_PERCENT)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cache", type=Path, default=CACHE, help=f"default {CACHE}")
    parser.add_argument("--turns", type=int, default=5, help="runs of each, in turn, after one uncounted (default 5)")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    ct, labels = scan(options.cache, "quick")
    engines: list[EngineName] = ["torch", "openvino"] if find_spec("openvino") else ["torch"]
    precisions = ["fp32", "bf16"] if cpu_computes_bf16() else ["fp32"]
    kinds = [(engine, precision) for engine in engines for precision in precisions]
    print(f"{machine('torch', 'numpy', 'openvino')}; {torch.get_num_threads()} threads of torch\n", flush=True)
    runs: list[Run] = []
    differences: list[list[str]] = []
    for name, weights in networks().items():
        more, lines = engine_runs(name, weights, window(weights.config, ct, labels), kinds)
        runs, differences = [*runs, *more], [*differences, *lines]
    bare = bare_runs(kinds)
    for run in (*runs, *bare):
        run.call()
    for turn in range(options.turns):
        for run in (*runs, *bare):
            run.turn()
        print(f"turn {turn + 1} of {options.turns}", flush=True)
    peak = peaks(bare)
    print(f"\nBest of {options.turns} turns\n")
    header = ["bare convolutions", "engine", "precision", "ms", "GFLOP/s"]
    print(table(header, [[*run.name, f"{1e3 * run.best_s:.1f}", f"{run.gflop_per_s:.0f}"] for run in bare]))
    header = ["network", "engine", "precision", "ms", "GFLOP/s", "of the peak", "mean abs. difference", "same class"]
    measured = [
        [
            *run.name,
            f"{1e3 * run.best_s:.1f}",
            f"{run.gflop_per_s:.0f}",
            f"{100 * run.gflop_per_s / peak[run.name[2]]:.0f} %",
        ]
        for run in runs
    ]
    print(f"\npeak: {', '.join(f'{name} {rate:.0f} GFLOP/s' for name, rate in peak.items())}\n")
    print(table(header, [[*a, *b] for a, b in zip(measured, differences, strict=True)]))
    print()
    print(goal_line(runs, peak) if "bf16" in peak else "no goal: this CPU has no bf16 instructions")


if __name__ == "__main__":
    main()
