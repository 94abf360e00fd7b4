"""An evaluation in one picture: how good, how biased, and for which volumes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pancreas_seg.evaluation.compare import CaseRow
from pancreas_seg.io import replacing

_COLOUR, _MARK = "#1f5fa8", "#c2410c"


def plot_evaluation(rows: Sequence[CaseRow], path: str | Path, label: str | None = None) -> Path:
    """Write a PNG with four panels about one label.

    Distribution of Dice; Bland-Altman plot of the volumes (Bland & Altman 1986, doi:10.1016/S0140-6736(86)90837-8:
    difference against mean of both, with the mean difference and its 95 % limits of agreement, mean ± 1.96 SD);
    predicted against reference volume; Dice against reference volume.

    Parameters
    ----------
    rows : sequence of CaseRow
        Those that are not "ok" are counted in the title.
    path : path
        The PNG file.
    label : str, optional
        Default: the label of the first row.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    ValueError
        If no row has that label.
    """
    path = Path(path)
    label = rows[0].label if label is None and rows else label
    rows = [row for row in rows if row.label == label]
    if not rows:
        raise ValueError(f"no row of the label {label!r}")
    found = [row.agreement for row in rows if row.agreement is not None]
    dice = np.array([a.dice for a in found], dtype=np.float64)
    reference = np.array([a.reference_ml for a in found], dtype=np.float64)
    prediction = np.array([a.prediction_ml for a in found], dtype=np.float64)
    figure = Figure(figsize=(12, 9), dpi=100, facecolor="white", layout="constrained")
    counted = f"{len(found)} of {len(rows)} cases"
    bad = [f"{sum(row.status == s for row in rows)} {s}" for s in ("missing", "failed")]
    figure.suptitle(f"{label}: {counted}, {', '.join(bad)}".replace("$", r"\$"), fontsize=12)
    distribution, differences, volumes, by_volume = figure.subplots(2, 2).flat
    _dice_distribution(distribution, dice)
    _bland_altman(differences, reference, prediction)
    _volumes(volumes, reference, prediction)
    _dice_by_volume(by_volume, reference, dice)
    with replacing(path) as temporary, temporary.open("wb") as file:
        FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    return path


def _dice_distribution(axes: Axes, dice: NDArray[np.float64]) -> None:
    _frame(axes, "Dice", "Dice", "cases", len(dice))
    if len(dice):
        axes.hist(dice, bins=np.linspace(0.0, 1.0, 41).tolist(), color=_COLOUR, alpha=0.75)
        for value, style, name in ((dice.mean(), "-", "mean"), (np.median(dice), "--", "median")):
            axes.axvline(float(value), color=_MARK, linestyle=style, linewidth=1.4, label=f"{name} {value:.3f}")
        axes.legend(loc="upper left", fontsize=9)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(-0.02, 1.02)


def _bland_altman(axes: Axes, reference: NDArray[np.float64], prediction: NDArray[np.float64]) -> None:
    names = "mean of reference and prediction [ml]", "prediction - reference [ml]"
    _frame(axes, "Bland-Altman plot of volume", *names, len(reference))
    if not len(reference):
        return
    difference = prediction - reference
    axes.scatter((reference + prediction) / 2, difference, s=16, color=_COLOUR, alpha=0.75)
    mean = float(difference.mean())
    axes.axhline(mean, color=_MARK, linewidth=1.4, label=f"mean {mean:+.1f} ml")
    if len(difference) > 1:
        limits = [mean + sign * 1.96 * float(difference.std(ddof=1)) for sign in (-1, 1)]
        name = f"95 % limits of agreement {limits[0]:+.1f} to {limits[1]:+.1f} ml"
        for limit, text in zip(limits, (name, None), strict=True):
            axes.axhline(limit, color=_MARK, linestyle="--", linewidth=1.2, label=text)
    axes.legend(loc="best", fontsize=9)


def _volumes(axes: Axes, reference: NDArray[np.float64], prediction: NDArray[np.float64]) -> None:
    _frame(axes, "Volume", "reference [ml]", "prediction [ml]", len(reference))
    if not len(reference):
        return
    top = 1.05 * max(float(reference.max()), float(prediction.max()), 1e-3)
    axes.plot([0.0, top], [0.0, top], color="#888888", linewidth=1.0, label="equal")
    axes.scatter(reference, prediction, s=16, color=_COLOUR, alpha=0.75)
    axes.set_xlim(0.0, top)
    axes.set_ylim(0.0, top)
    axes.legend(loc="upper left", fontsize=9)


def _dice_by_volume(axes: Axes, reference: NDArray[np.float64], dice: NDArray[np.float64]) -> None:
    _frame(axes, "Dice by volume", "reference [ml]", "Dice", len(dice))
    axes.scatter(reference, dice, s=16, color=_COLOUR, alpha=0.75)
    axes.set_ylim(-0.02, 1.02)


def _frame(axes: Axes, title: str, x: str, y: str, n: int) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    if n == 0:
        axes.text(0.5, 0.5, "no case evaluated", transform=axes.transAxes, ha="center", va="center", color="#666666")
