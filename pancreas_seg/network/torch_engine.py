"""Networks on torch, on a CPU or CUDA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pancreas_seg.config import Config
from pancreas_seg.network.attention_unet import AttentionUNet
from pancreas_seg.network.precision import Precision, autocast, choose_device, choose_precision


class TorchEngine:
    """See `pancreas_seg.network.engine.Engine`.

    Parameters
    ----------
    networks : sequence of Module
        Each gives logits (N, 1 + classes, *S).
    config : Config
    device : {"auto", "cpu", "cuda"}
    threads : int
        Of torch in the whole process; 0 leaves them as they are.

    Raises
    ------
    ConfigError
        If there is no such device, or it has not the number format.
    """

    name = "torch"
    version = str(torch.__version__)

    def __init__(self, networks: Sequence[nn.Module], config: Config, device: str = "auto", threads: int = 0) -> None:
        if threads:
            torch.set_num_threads(threads)
        place = choose_device(device)
        self.device = place.type
        self._precision: Precision = choose_precision(config.infer.precision, place)
        self.precision: str = self._precision
        self._place = place
        self._layout = torch.channels_last if config.network.spatial_dims == 2 else torch.channels_last_3d
        self.networks = tuple(
            network.eval().to(place).to(memory_format=self._layout)  # type: ignore[call-overload]
            for network in networks
        )
        self._run = [torch.compile(n) if config.infer.torch_compile else n for n in self.networks]

    def probabilities(self, windows: NDArray[np.float32], classes: Sequence[int]) -> NDArray[np.float32]:
        """Probabilities (N, K, *S) of K classes for windows (N, C, *S) in 0..1."""
        with torch.inference_mode():
            x = self._given(windows)
            total = torch.zeros((), device=self._place)
            for network in self._run:
                with autocast(self._precision, self._place):
                    logits = network(x)
                total = total + torch.softmax(logits.float(), dim=1)[:, list(classes)]
            return np.asarray((total / len(self._run)).cpu().numpy())

    def attention(self, windows: NDArray[np.float32], levels: Sequence[int]) -> NDArray[np.float32]:
        """Attention coefficients (N, L, *S), 0 to 1, of the gates on some levels, for windows (N, C, *S)."""
        with torch.inference_mode():
            x = self._given(windows)
            total = torch.zeros((), device=self._place)
            for network in self.networks:
                with autocast(self._precision, self._place):
                    maps = cast(AttentionUNet, network).attention_maps(x)
                total = total + torch.cat([maps[f"level_{n}"].float() for n in levels], dim=1)
            return np.asarray((total / len(self.networks)).cpu().numpy())

    def _given(self, windows: NDArray[np.float32]) -> Tensor:
        x = torch.from_numpy(np.ascontiguousarray(windows)).to(self._place)
        return x.contiguous(memory_format=self._layout)


def gate_levels(network: nn.Module) -> tuple[int, ...]:
    """Levels of a network that have an attention gate, finest (0) first; none for a network without gates."""
    return tuple(sorted(int(name) for name in getattr(network, "gates", ())))
