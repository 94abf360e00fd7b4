"""Several processes that train one network together, as torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from pancreas_seg.network.precision import choose_device

_PATIENCE = timedelta(hours=12)
"""How long one waits for the others, who may read a large data set or segment with the first one waiting for none."""


@dataclass(frozen=True)
class Processes:
    """This process among all that train together: ``rank`` from 0, of ``count``."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def wrapped(self, network: nn.Module, all_used: bool) -> nn.Module:
        """The network for training: gradients are averaged over the processes.

        On CUDA batch normalisation is over the batches of all processes; on CPUs, where PyTorch has no such thing, each
        process normalises by its own. ``all_used`` says that every parameter takes part in the loss.
        """
        if self.count == 1:
            return network
        cuda = self.device.type == "cuda"
        if cuda:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return DistributedDataParallel(
            network, device_ids=[self.device.index] if cuda else None, find_unused_parameters=not all_used
        )

    def sum(self, values: Tensor) -> Tensor:
        """The sum of each process's tensor (same shape everywhere), on the CPU."""
        if self.count == 1:
            return values
        total = values.to(self.device)
        distributed.all_reduce(total)
        return total.cpu()

    def agree_on_buffers(self, network: nn.Module) -> None:
        """Give every process the first one's buffers (the batch statistics)."""
        if self.count > 1:
            for buffer in network.buffers():
                distributed.broadcast(buffer, 0)

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.count > 1:
            distributed.barrier()


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """The processes that torchrun has started, or this one alone.

    ``device`` is "auto", "cpu" or "cuda"; with CUDA each process takes the GPU of its number on this machine.

    Raises
    ------
    ConfigError
        If CUDA is asked for and there is none.
    """
    chosen = choose_device(device)
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if count == 1:
        yield Processes(chosen)
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    here = Processes(chosen, rank, count)
    if distributed.is_initialized():
        yield here
        return
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield here
    finally:
        distributed.destroy_process_group()
