"""Curves are drawn for any history that a training can have."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from pancreas_seg.training import curves
from pancreas_seg.training.curves import plot_curves


def history(rounds: int, classes: tuple[str, ...] = ("pancreas", "lesion")) -> list[dict[str, float]]:
    rows = []
    for number in range(1, rounds + 1):
        row = {
            "round": float(number),
            "step": 250.0 * number,
            "loss": 1.5 / number,
            "accuracy": 1.0 - 0.1 / number,
            "learning_rate": 0.01 * (1 - number / 100),
            "elapsed_s": 60.0 * number,
        }
        if classes:
            row |= {"val_dice": 0.8 - 0.5 / number, "val_accuracy": 0.99 - 0.1 / number}
            row |= {f"val_dice_{name}": 0.7 - 0.5 / number for name in classes}
        rows.append(row)
    return rows


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures that were drawn."""
    drawn: list[Figure] = []

    class Recorded(Figure):
        def __init__(self, **options: object) -> None:
            super().__init__(**options)  # type: ignore[arg-type]
            drawn.append(self)

    monkeypatch.setattr(curves, "Figure", Recorded)
    return drawn


def names(figure: Figure) -> list[list[str]]:
    return [[str(line.get_label()) for line in axes.lines] for axes in figure.axes]


def test_panels(tmp_path: Path, figures: list[Figure]) -> None:
    path = plot_curves(history(5), tmp_path / "run" / "curves.png")
    assert imread(path).shape[:2] == (800, 1200)
    assert [file.name for file in path.parent.iterdir()] == ["curves.png"]
    (figure,) = figures
    assert [axes.get_title() for axes in figure.axes] == ["loss", "validation Dice", "accuracy", "learning rate"]
    assert names(figure) == [
        ["training"],
        ["pancreas", "lesion", "classes of the mask"],
        ["training", "validation"],
        ["learning rate"],
    ]
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xdata(), [250, 500, 750, 1000, 1250])
    assert list(np.asarray(figure.axes[0].lines[0].get_ydata())) == pytest.approx([1.5, 0.75, 0.5, 0.375, 0.3])
    *classes, mean = figure.axes[1].lines
    assert all(mean.get_linewidth() > 2 * line.get_linewidth() for line in classes)


def test_one_row_is_visible(tmp_path: Path, figures: list[Figure]) -> None:
    plot_curves(history(1), tmp_path / "curves.png")
    assert all(line.get_marker() == "o" for axes in figures[0].axes for line in axes.lines)
    assert len(figures[0].axes[1].lines) == 3


def test_no_validation_cases(tmp_path: Path, figures: list[Figure]) -> None:
    plot_curves(history(3, classes=()), tmp_path / "curves.png")
    assert names(figures[0]) == [["training"], [], ["training"], ["learning rate"]]
    assert [text.get_text() for text in figures[0].axes[1].texts] == ["no validation cases"]


def test_values_that_are_not_finite_leave_gaps(tmp_path: Path, figures: list[Figure]) -> None:
    rows = history(4)
    rows[1]["val_dice_lesion"] = math.nan
    rows[2]["loss"] = math.inf
    for row in rows:
        row["val_dice_pancreas"] = math.nan
        row["learning_rate"] = math.nan
    path = plot_curves(rows, tmp_path / "curves.png")
    assert path.stat().st_size > 1000
    assert names(figures[0]) == [["training"], ["lesion", "classes of the mask"], ["training", "validation"], []]
    assert np.isnan(figures[0].axes[1].lines[0].get_ydata()).tolist() == [False, True, False, False]
    assert np.isnan(figures[0].axes[0].lines[0].get_ydata()).tolist() == [False, False, True, False]
    assert [text.get_text() for text in figures[0].axes[3].texts] == ["no finite values"]


def test_dice_that_is_never_finite_is_no_lack_of_cases(tmp_path: Path, figures: list[Figure]) -> None:
    rows = [row | {"val_dice": math.nan, "val_dice_pancreas": math.nan} for row in history(2, classes=("pancreas",))]
    plot_curves(rows, tmp_path / "curves.png")
    assert [text.get_text() for text in figures[0].axes[1].texts] == ["no finite values"]


def test_missing_keys(tmp_path: Path, figures: list[Figure]) -> None:
    rows = history(4)
    del rows[0]["val_dice"], rows[0]["val_dice_lesion"], rows[2]["loss"], rows[3]["step"]
    for row in rows:
        del row["accuracy"]
    plot_curves(rows, tmp_path / "curves.png")
    assert names(figures[0])[2] == ["validation"]
    assert np.isnan(figures[0].axes[1].lines[-1].get_ydata()).tolist() == [True, False, False, False]


@pytest.mark.parametrize("rows", [[], [{}], [{"step": 250.0}], [{"loss": 1.0}]])
def test_next_to_nothing(tmp_path: Path, rows: list[dict[str, float]]) -> None:
    assert imread(plot_curves(rows, tmp_path / "curves.png")).shape[:2] == (800, 1200)


def test_many_classes_with_awkward_names(tmp_path: Path, figures: list[Figure]) -> None:
    classes = tuple(f"${number}_{{" for number in range(12))
    plot_curves(history(3, classes), tmp_path / "curves.png")
    assert len(figures[0].axes[1].lines) == 13


def test_same_history_same_bytes(tmp_path: Path) -> None:
    first = plot_curves(history(6), tmp_path / "a.png").read_bytes()
    assert plot_curves(history(6), tmp_path / "b.png").read_bytes() == first
    assert b"Software" not in first


def test_an_older_picture_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    path.write_bytes(b"old")
    plot_curves(history(2), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]
