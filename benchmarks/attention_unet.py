"""Forward pass and training step: our AttentionUNet beside monai.networks.nets.AttentionUnet.

Both have the same channels, input, loss, optimiser and number format; runs alternate, so that a machine that slows down
slows both. Prints one table; the ratio is MONAI's median time over ours.

    .venv/bin/python benchmarks/attention_unet.py [--size 96] [--repeats 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from monai.networks.nets import AttentionUnet
from torch import Tensor, nn

from pancreas_seg.network.attention_unet import AttentionUNet
from pancreas_seg.network.loss import SegmentationLoss
from pancreas_seg.network.precision import Precision, autocast, cpu_computes_bf16

CHANNELS = (16, 32, 64, 128, 256)
CPU = torch.device("cpu")


def _networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    layout = torch.channels_last_3d
    return {
        "ours": AttentionUNet(3, 1, 2, CHANNELS).to(memory_format=layout),
        "ours, no deep supervision": AttentionUNet(3, 1, 2, CHANNELS, deep_supervision=False).to(memory_format=layout),
        "monai": AttentionUnet(3, 1, 2, CHANNELS, (2, 2, 2, 2)),
        "monai, channels last": AttentionUnet(3, 1, 2, CHANNELS, (2, 2, 2, 2)).to(memory_format=layout),
    }


def _forward(network: nn.Module, x: Tensor, precision: Precision) -> Callable[[], object]:
    def run() -> object:
        network.eval()
        with torch.inference_mode(), autocast(precision, CPU):
            return network(x)

    return run


def _training_step(network: nn.Module, x: Tensor, precision: Precision) -> Callable[[], object]:
    loss_function = SegmentationLoss("dice", False, True, 1e-5, (1.0, 0.5, 0.25, 0.125))
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
    labels = (x > 1.5).to(torch.uint8)

    def run() -> object:
        network.train()
        optimizer.zero_grad(set_to_none=True)
        with autocast(precision, CPU):
            outputs = network(x)
        loss_function(outputs, labels).backward()
        return optimizer.step()

    return run


def _alternating(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, after one warm-up, run in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=96, help="voxels along each side of the input (default 96)")
    parser.add_argument("--repeats", type=int, default=5, help="counted runs of each (default 5)")
    options = parser.parse_args()
    networks = _networks()
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {threads} threads, input 1x1x{options.size}^3, {options.repeats} runs")
    for name, network in networks.items():
        print(f"  {name}: {sum(p.numel() for p in network.parameters()):,} parameters")
    print(f"{'':16}{'precision':10}" + "".join(f"{name:>27}" for name in networks) + f"{'monai/ours':>12}")
    x = torch.randn(1, 1, *(options.size,) * 3)
    precisions: list[Precision] = ["fp32", "bf16"] if cpu_computes_bf16() else ["fp32"]
    for title, make in (("forward", _forward), ("training step", _training_step)):
        for precision in precisions:
            runs = {name: make(network, x, precision) for name, network in networks.items()}
            medians = _alternating(runs, options.repeats)
            row = "".join(f"{seconds:>25.3f} s" for seconds in medians.values())
            print(f"{title:16}{precision:10}{row}{medians['monai'] / medians['ours']:>12.2f}")


if __name__ == "__main__":
    main()
