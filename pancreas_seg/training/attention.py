"""Where the network looks while it learns: the gates' coefficients on one slice, round after round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from pancreas_seg.config import Config
from pancreas_seg.data.augment import centre
from pancreas_seg.data.loading import cut_sample
from pancreas_seg.data.transforms import CENTRES, IMAGE, LABEL
from pancreas_seg.io import remove_unfinished, replacing
from pancreas_seg.network.attention_unet import AttentionUNet

_COLUMNS = 6
"""Rounds shown, spread over the training."""


class AttentionRecord:
    """Keeps one patch and what the gates make of it after each round, in files ``<folder>/<round>.npz``.

    The patch is cut around the middle of the first class, without augmentation. Each file holds the patch's axial
    middle slice ("image", "label") and the coefficients of each gate there ("level_1", ...), in 8 bits.

    Parameters
    ----------
    folder : Path
    volume : dict
        A preprocessed volume, as of a VolumeDataset.
    config : Config
    """

    def __init__(self, folder: Path, volume: dict[str, Tensor], config: Config) -> None:
        self.folder = folder
        remove_unfinished(folder)
        centres = volume[CENTRES]
        if len(centres):
            middle = centres.float().mean(dim=0)
            nearest = int((centres.float() - middle).square().sum(dim=1).argmin())
            volume = {**volume, CENTRES: centres[nearest : nearest + 1]}
        settled = config.changed({"train": {"pancreas_fraction": 1.0}})
        block = cut_sample(volume, settled, np.random.default_rng(0))
        self.image, self.label = (centre(block[key], config.data.patch_size) for key in (IMAGE, LABEL))

    def keep(self, network: AttentionUNet, number: int) -> None:
        """Write the coefficients of a round; a network without gates has none."""
        network.eval()
        device = next(network.parameters()).device
        with torch.inference_mode():
            maps = network.attention_maps(self.image[None].to(device))
        if not maps:
            return
        arrays: dict[str, Any] = {name: _slice(alpha[0].float().cpu()) for name, alpha in maps.items()}
        middle = self.image.shape[0] // 2
        arrays |= {"image": _slice(self.image[middle : middle + 1]), "label": _slice(self.label.float() == 1)}
        with replacing(self.folder / f"{number:05d}.npz") as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)


def plot_attention(folder: Path, path: Path) -> bool:
    """Draw a folder's records, a row for each gate and a column for each round shown; whether there are any."""
    records = sorted(folder.glob("[0-9]*.npz"))
    if not records:
        return False
    chosen = sorted({round(n) for n in np.linspace(0, len(records) - 1, min(_COLUMNS, len(records)))})
    columns = []
    for n in chosen:
        with np.load(records[n], allow_pickle=False) as arrays:
            columns.append((int(records[n].stem), {name: arrays[name] for name in arrays.files}))
    levels = sorted(name for name in columns[-1][1] if name.startswith("level_"))
    size = (2.2 * len(columns) + 0.9, 2.4 * len(levels))
    figure = Figure(figsize=size, dpi=110, facecolor="white", layout="constrained")
    axes = figure.subplots(len(levels), len(columns), squeeze=False)
    for level, row in zip(levels, axes, strict=True):
        for axis, (number, arrays) in zip(row, columns, strict=True):
            axis.imshow(_shown(arrays["image"]), cmap="gray", vmin=0, vmax=255)
            drawn = axis.imshow(_shown(arrays[level]) / 255, cmap="inferno", vmin=0, vmax=1, alpha=0.55)
            if arrays["label"].any():
                axis.contour(_shown(arrays["label"]), [127], colors="cyan", linewidths=0.8)
            axis.set(xticks=[], yticks=[], title=f"round {number}, {level.replace('_', ' ')}")
            axis.title.set_fontsize(8)
    figure.colorbar(drawn, ax=list(axes.flat), fraction=0.03, label="gate coefficient")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
    return True


def _slice(x: Tensor) -> NDArray[np.uint8]:
    """(1, I, J[, K]) with values in 0..1 to the axial middle slice (I, J) in 0..255."""
    flat = x[0] if x.ndim == 3 else x[0, ..., x.shape[-1] // 2]
    return np.asarray((flat.float().clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def _shown(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(Right, Anterior) indices as radiologists look at them: patient's right on the left, front above."""
    return array.T[::-1, ::-1]
