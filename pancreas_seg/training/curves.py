"""A training's course in one picture."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pancreas_seg.io import replacing

_CLASS_PREFIX = "val_dice_"
_TRAINING, _VALIDATION = "#1f5fa8", "#c2410c"
_CLASSES = ("#4c9f70", "#9467bd", "#d4a017", "#17a2b8", "#e377c2", "#8c564b", "#7f7f7f", "#7ab800")


def plot_curves(history: list[dict[str, float]], path: Path) -> Path:
    """Write a PNG with loss, Dice, accuracy and learning rate against the training step.

    Parameters
    ----------
    history : list of dict
        One row per round, with the keys of metrics.csv. A key that a row lacks, and a value that is not finite, leave
        a gap in the curve.
    path : path
        The PNG file.

    Returns
    -------
    Path
        ``path``.
    """
    path = Path(path)
    figure = Figure(figsize=(12, 8), dpi=100, facecolor="white", layout="constrained")
    loss, dice, accuracy, rate = figure.subplots(2, 2, sharex=True).flat
    _panel(loss, "loss", history, {"loss": ("training", _TRAINING, 1.6)})
    _dice_panel(dice, history)
    accuracies = {"accuracy": ("training", _TRAINING, 1.6), "val_accuracy": ("validation", _VALIDATION, 1.6)}
    _panel(accuracy, "accuracy", history, accuracies)
    _panel(rate, "learning rate", history, {"learning_rate": ("learning rate", _TRAINING, 1.6)})
    if len(accuracy.lines) > 1:
        accuracy.legend(loc="lower right", fontsize=9)
    for axes in (accuracy, rate):
        axes.set_xlabel("step")
    with replacing(path) as temporary, temporary.open("wb") as file:
        FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    return path


def _dice_panel(axes: Axes, history: list[dict[str, float]]) -> None:
    axes.set_ylim(-0.02, 1.02)
    keys = dict.fromkeys(key for row in history for key in row if key.startswith("val_dice"))
    if not keys:
        _panel(axes, "validation Dice", history, {}, empty="no validation cases")
        return
    curves = {}
    for number, key in enumerate(key for key in keys if key.startswith(_CLASS_PREFIX)):
        name = key.removeprefix(_CLASS_PREFIX)
        curves[key] = (name, _CLASSES[number % len(_CLASSES)], 0.9)
    curves["val_dice"] = ("classes of the mask", "black", 2.6)
    _panel(axes, "validation Dice", history, curves)
    if axes.lines:
        axes.legend(loc="lower right", fontsize=9, ncols=1 + len(curves) // 6)


def _panel(
    axes: Axes,
    title: str,
    history: list[dict[str, float]],
    curves: dict[str, tuple[str, str, float]],
    empty: str = "no finite values",
) -> None:
    """Draw columns of the history, each with its name, colour and line width; say so if there is nothing to draw."""
    axes.set_title(title, fontsize=11)
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    steps = _column(history, "step")
    for key, (name, colour, width) in curves.items():
        values = _column(history, key)
        if np.isfinite(steps + values).any():
            label = name.replace("$", r"\$")
            axes.plot(steps, values, color=colour, linewidth=width, marker="o", markersize=width + 1.5, label=label)
    if not axes.lines:
        axes.text(0.5, 0.5, empty, transform=axes.transAxes, ha="center", va="center", fontsize=11, color="#666666")


def _column(history: list[dict[str, float]], key: str) -> NDArray[np.float64]:
    """Values of a key in each row; NaN where they are missing or not finite."""
    values = np.array([row.get(key, math.nan) for row in history], dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)
