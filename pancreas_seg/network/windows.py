"""A whole volume through the network: sliding 3D windows, or slice by slice. Training validates with it too."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from monai.inferers import SliceInferer, SlidingWindowInferer
from torch import Tensor, nn
from torch.nn import functional as F

from pancreas_seg.config import Config
from pancreas_seg.network.attention_unet import AttentionUNet
from pancreas_seg.network.precision import Precision, autocast

Progress = Callable[[int, int], None]
"""Called with windows done and windows in all."""

_SLICES_AT_ONCE = 8


def predict_probabilities(
    network: nn.Module | Sequence[nn.Module],
    image: Tensor,
    config: Config,
    classes: Sequence[int],
    precision: Precision = "fp32",
    progress: Progress | None = None,
) -> Tensor:
    """Class probabilities of a preprocessed volume, blended over overlapping windows.

    Parameters
    ----------
    network : Module, or sequence of Module
        Gives logits (N, C, *S) in evaluation mode; on the device to compute on. The probabilities of several are
        averaged.
    image : (1, I, J, K) float32 tensor
        In 0..1 on the model grid.
    config : Config
        Window size (``data.patch_size``), overlap and blending.
    classes : sequence of int
        Channels to keep, K of them.
    progress : callable, optional

    Returns
    -------
    (K, I, J, K') float32 tensor, on the CPU
    """
    networks = (network,) if isinstance(network, nn.Module) else tuple(network)

    def probabilities(batch: Tensor) -> Tensor:
        found = []
        for one in networks:
            with autocast(precision, batch.device):
                logits = one(batch)
            found.append(torch.softmax(logits.float(), dim=1)[:, list(classes)])
        return torch.stack(found).mean(dim=0) if len(found) > 1 else found[0]

    return _swept(probabilities, networks, image, config, progress)


def predict_attention(
    network: nn.Module | Sequence[nn.Module],
    image: Tensor,
    config: Config,
    precision: Precision = "fp32",
    progress: Progress | None = None,
) -> Tensor:
    """Attention coefficients of a preprocessed volume, blended over overlapping windows like the probabilities.

    Parameters
    ----------
    network : AttentionUNet, or sequence of them with gates on the same levels
        The coefficients of several are averaged.
    image, config, precision, progress
        As for `predict_probabilities`.

    Returns
    -------
    (L, I, J, K) float32 tensor, on the CPU
        0 to 1, one channel for each of the L levels that have a gate (see `gate_levels`), finest first.
    """
    networks = cast(tuple[AttentionUNet, ...], (network,) if isinstance(network, nn.Module) else tuple(network))
    levels = gate_levels(networks[0])

    def coefficients(batch: Tensor) -> Tensor:
        total = torch.zeros((), device=batch.device)
        for one in networks:
            with autocast(precision, batch.device):
                maps = one.attention_maps(batch)
            total = total + torch.cat([maps[f"level_{n}"].float() for n in levels], dim=1)
        return total / len(networks)

    return _swept(coefficients, networks, image, config, progress)


def gate_levels(network: nn.Module) -> tuple[int, ...]:
    """Levels of a network that have an attention gate, finest (0) first; none for a network without gates."""
    return tuple(sorted(int(name) for name in getattr(network, "gates", ())))


def _swept(
    predictor: Callable[[Tensor], Tensor],
    networks: Sequence[nn.Module],
    image: Tensor,
    config: Config,
    progress: Progress | None,
) -> Tensor:
    """What a predictor gives for a volume's windows (N, C, *S), blended: (K, I, J, K') float32 on the CPU."""
    device = next(networks[0].parameters(), torch.empty(0)).device
    slices = config.network.spatial_dims == 2
    layout = torch.channels_last if slices else torch.channels_last_3d
    total = count_windows(image.shape[1:], config)
    done = 0

    def counted(batch: Tensor) -> Tensor:
        nonlocal done
        out = predictor(batch.contiguous(memory_format=layout))
        done += len(batch)
        if progress is not None:
            progress(min(done, total), total)
        return out

    volume = neighbour_channels(image, config.data.neighbour_slices) if slices else image
    with torch.inference_mode():
        out = _inferer(config, device)(volume[None], counted)
    return torch.as_tensor(out)[0].float().cpu()


def count_windows(shape: Sequence[int], config: Config) -> int:
    """Windows that a volume of a shape (I, J, K) takes."""
    total = 1
    size = config.data.patch_size
    for n, window in zip(shape, size, strict=False):
        step = max(1, int(window * (1 - config.infer.overlap)))
        total *= 1 + max(0, math.ceil((int(n) - window) / step))
    return total * (int(shape[2]) if len(size) == 2 else 1)


def neighbour_channels(image: Tensor, neighbours: int) -> Tensor:
    """(1, I, J, K) to (1 + 2·neighbours, I, J, K): channel c at slice k is slice k + c - neighbours, zero outside."""
    if neighbours == 0:
        return image
    n = int(image.shape[-1])
    padded = F.pad(image, (neighbours, neighbours))
    return torch.cat([padded[..., c : c + n] for c in range(1 + 2 * neighbours)])


def _inferer(config: Config, device: torch.device) -> SlidingWindowInferer:
    infer, size = config.infer, config.data.patch_size
    options = {
        "overlap": infer.overlap,
        "mode": infer.blend,
        "padding_mode": "constant",
        "cval": 0.0,
        "sw_device": device,
        "device": torch.device("cpu"),
    }
    if len(size) == 2:
        return SliceInferer(roi_size=size, spatial_dim=2, sw_batch_size=_SLICES_AT_ONCE * infer.window_batch, **options)
    return SlidingWindowInferer(roi_size=size, sw_batch_size=infer.window_batch, **options)
