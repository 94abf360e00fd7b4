"""Starts watchers by forking, since importing torch for each of hundreds would take an hour. Run by test_kills.py.

    python kill_server.py IN OUT LOG LEASE_S ALONE

A line "start" on stdin starts one and answers with its process number; each input's hash is written to LOG when its
result is complete. With ALONE = 1 each watcher seems to run on a machine of its own.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pancreas_seg.config import Config
from pancreas_seg.inference.segmentation import Segmentation
from pancreas_seg.inference.segmenter import Segmenter
from pancreas_seg.watch.process import Process
from pancreas_seg.watch.segmenting import segment_with
from pancreas_seg.watch.stop import stopping_on_signals
from pancreas_seg.watch.watcher import WatchOptions, watch


class Threshold(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        logit = (x[:, :1] - 0.5) * 1e4
        return torch.cat([-logit, logit], dim=1)


def run(inputs: Path, out: Path, finished: Path, lease_s: float, alone: bool) -> None:
    torch.set_num_threads(1)
    real_save, here = Segmentation.save, Process.here()

    def save(self: Segmentation, folder: Path) -> list[Path]:
        written = real_save(self, folder)
        with finished.open("ab", buffering=0) as file:
            file.write(f"{self.scan.sha256}\n".encode())
        return written

    Segmentation.save = save  # type: ignore[method-assign]
    if alone:
        Process.here = classmethod(lambda cls: replace(here, place=f"machine {here.pid}"))  # type: ignore[assignment,method-assign]
    tree = {"data": {"spacing_mm": [2.0, 2.0, 3.0], "patch_size": [8, 8, 8]}, "clean": {"minimum_volume_ml": 0.0}}
    segmenter = Segmenter(Threshold(), Config().changed(tree), "12" * 32, device="cpu")
    options = WatchOptions(settle_s=1.0, interval_s=0.1, lease_s=lease_s)
    with stopping_on_signals() as stop:
        watch(inputs, out, segment_with(segmenter), options, stop)


def main() -> None:
    inputs, out, finished, lease_s, alone = sys.argv[1:]
    for line in iter(sys.stdin.readline, ""):
        if line.strip() != "start":
            continue
        child = os.fork()
        if child == 0:
            code = 1
            try:
                logging.disable(logging.ERROR)
                run(Path(inputs), Path(out), Path(finished), float(lease_s), alone == "1")
                code = 0
            finally:
                os._exit(code)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        while True:  # those that have ended
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    break
            except ChildProcessError:
                break


main()
