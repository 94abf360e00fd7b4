"""Summaries, comparisons, their files and their picture."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from matplotlib.image import imread

from pancreas_seg.errors import ConfigError, InputError
from pancreas_seg.evaluation.compare import CaseRow
from pancreas_seg.evaluation.metrics import Agreement, agreement
from pancreas_seg.evaluation.plots import plot_evaluation
from pancreas_seg.evaluation.statistics import compare, distribution, summarise
from pancreas_seg.evaluation.tables import read_rows, write_rows, write_summary


def result(dice: float, hd95_mm: float = 3.0, difference_ml: float = 2.0) -> Agreement:
    iou = dice / (2 - dice)
    nsd = {1.0: dice, 2.0: (1 + dice) / 2}
    return Agreement(
        dice, iou, dice, dice, 80.0, 80.0 + difference_ml, difference_ml, 1.25 * difference_ml, nsd, hd95_mm, 1.0
    )


def rows(dices: list[float], label: str = "pancreas") -> list[CaseRow]:
    return [CaseRow(f"c{n:03}", label, "ok", agreement=result(dice)) for n, dice in enumerate(dices)]


@pytest.fixture
def mixed() -> list[CaseRow]:
    """Three good cases, a missed organ, one in neither mask, and two that could not be evaluated."""
    one, none = np.ones((2, 2, 2), dtype=bool), np.zeros((2, 2, 2), dtype=bool)
    return [
        *rows([0.9, 0.7, 0.8]),
        CaseRow("missed", "pancreas", "ok", agreement=agreement(one, none, (1, 1, 1))),
        CaseRow("neither", "pancreas", "ok", resampled=True, agreement=agreement(none, none, (1, 1, 1))),
        CaseRow("absent", "pancreas", "missing", "evaluation.no_prediction: there is no file"),
        CaseRow("broken", "pancreas", "failed", 'input.truncated: found "3, 4"; expected all.'),
    ]


def test_a_summary_counts_every_case(mixed: list[CaseRow]) -> None:
    (summary,) = summarise(mixed)
    assert (summary.n_cases, summary.n_ok, summary.n_missing, summary.n_failed) == (7, 5, 1, 1)
    counts = summary.n_both_empty, summary.n_only_reference_empty, summary.n_only_prediction_empty, summary.n_resampled
    assert counts == (1, 0, 1, 1)
    assert [case for case, _ in summary.worst] == ["missed", "c001", "c002", "c000", "neither"]
    assert [entry[:2] for entry in summary.not_evaluated] == [("absent", "missing"), ("broken", "failed")]
    dice = summary.metrics["dice"]
    assert (dice.n, dice.infinite, dice.median, dice.minimum, dice.maximum) == (5, 0, 0.8, 0.0, 1.0)
    assert dice.mean == pytest.approx(3.4 / 5)
    assert dice.sd == pytest.approx(np.std([0.9, 0.7, 0.8, 0.0, 1.0], ddof=1))
    assert (dice.lower_quartile, dice.upper_quartile) == (0.7, 0.9)
    hd95 = summary.metrics["hd95_mm"]
    assert (hd95.n, hd95.infinite, hd95.median, hd95.maximum) == (5, 1, 3.0, math.inf)
    assert hd95.mean == pytest.approx(9 / 4)


def test_a_summary_of_nothing_but_failures() -> None:
    (summary,) = summarise([CaseRow("a", "pancreas", "failed", "bug: ValueError")])
    assert (summary.n_cases, summary.n_ok, summary.metrics, summary.worst) == (1, 0, {}, ())


def test_each_label_has_its_summary() -> None:
    summaries = summarise([*rows([0.5, 0.6]), *rows([0.1], "cancer")])
    assert [(s.label, s.n_ok) for s in summaries] == [("pancreas", 2), ("cancer", 1)]
    assert math.isnan(summaries[1].metrics["dice"].sd)
    assert math.isnan(summaries[1].metrics["dice"].mean_low)


def test_the_interval_is_seeded_and_near_the_normal_one() -> None:
    x = np.random.default_rng(1).normal(10.0, 2.0, 400)
    found = distribution(x.tolist(), seed=3)
    half = 1.96 * x.std(ddof=1) / math.sqrt(len(x))
    assert found.mean_low == pytest.approx(x.mean() - half, abs=0.02)
    assert found.mean_high == pytest.approx(x.mean() + half, abs=0.02)
    assert distribution(x.tolist(), seed=3) == found
    assert distribution(x.tolist(), seed=4) != found
    assert distribution(x.tolist(), resamples=1).mean_low == distribution(x.tolist(), resamples=1).mean_high


def test_the_interval_is_the_one_by_scipy() -> None:
    x = np.random.default_rng(2).beta(8, 2, 30)
    peer = scipy.stats.bootstrap((x,), np.mean, n_resamples=10_000, method="percentile").confidence_interval
    found = distribution(x.tolist())
    assert found.mean_low == pytest.approx(peer.low, abs=0.005)
    assert found.mean_high == pytest.approx(peer.high, abs=0.005)


def test_quantiles_beside_infinity() -> None:
    found = distribution([1.0, 2.0, math.inf, math.inf])
    assert (found.median, found.upper_quartile, found.lower_quartile) == (math.inf, math.inf, 1.75)
    x = np.random.default_rng(0).random(11).tolist()
    found = distribution(x)
    quartiles = [found.lower_quartile, found.median, found.upper_quartile]
    assert quartiles == pytest.approx(np.quantile(x, [0.25, 0.5, 0.75]))


def test_comparison_by_wilcoxon() -> None:
    rng = np.random.default_rng(5)
    a = rng.uniform(0.6, 0.9, 20)
    b = a + rng.normal(0.03, 0.03, 20)
    b[3] = a[3]
    found = {c.metric: c for c in compare(rows(a.tolist()), rows(b.tolist()))}
    dice = found["dice"]
    assert dice.p_value == pytest.approx(scipy.stats.wilcoxon((b - a)[a != b], method="exact").pvalue)
    assert (dice.wins, dice.losses, dice.ties) == ((b > a).sum(), (b < a).sum(), 1)
    assert dice.mean_difference == pytest.approx((b - a).mean())
    assert dice.median_difference == pytest.approx(np.median(b - a))
    assert (found["hd95_mm"].ties, found["hd95_mm"].p_value) == (20, 1.0)
    assert {"reference_ml", "prediction_ml"}.isdisjoint(found)
    assert {"nsd_1mm", "nsd_2mm", "iou", "volume_difference_ml", "mean_surface_distance_mm"} <= set(found)


def test_lower_distances_and_smaller_volume_differences_are_better() -> None:
    a = [CaseRow(f"{n}", "pancreas", "ok", agreement=result(0.8, 5.0, -4.0)) for n in range(4)]
    b = [CaseRow(f"{n}", "pancreas", "ok", agreement=result(0.8, 2.0 + n, 1.0)) for n in range(4)]
    found = {c.metric: c for c in compare(a, b)}
    assert (found["hd95_mm"].wins, found["hd95_mm"].losses, found["hd95_mm"].ties) == (3, 0, 1)
    assert (found["volume_difference_ml"].wins, found["volume_difference_ml"].mean_difference) == (4, -3.0)


def test_infinite_differences_rank_above_all_others() -> None:
    a = [CaseRow(f"{n}", "pancreas", "ok", agreement=result(0.8, 5.0 + n)) for n in range(6)]
    b = [CaseRow(f"{n}", "pancreas", "ok", agreement=result(0.8, 4.5 - n)) for n in range(6)]
    b[2] = CaseRow("2", "pancreas", "ok", agreement=result(0.8, math.inf))
    a[3], b[3] = (CaseRow("3", "pancreas", "ok", agreement=result(0.8, math.inf)) for _ in range(2))
    found = next(c for c in compare(a, b) if c.metric == "hd95_mm")
    assert (found.n, found.wins, found.losses, found.ties) == (6, 4, 1, 1)
    assert found.p_value == pytest.approx(scipy.stats.wilcoxon([-0.5, -2.5, 1e9, -8.5, -10.5]).pvalue)
    assert found.mean_difference == pytest.approx((-0.5 - 2.5 + 0.0 - 8.5 - 10.5) / 5)


def test_cases_in_just_one_are_counted() -> None:
    a, b = rows([0.5, 0.6, 0.7, 0.8]), rows([0.6, 0.7, 0.8, 0.9, 0.9])
    b[1] = CaseRow("c001", "pancreas", "failed", "bug: ValueError")
    found = compare(a, b)[0]
    assert (found.n, found.n_unpaired, found.wins) == (3, 2, 3)
    nothing = compare(a[:1], b[1:2])[0]
    assert (nothing.n, nothing.n_unpaired) == (0, 2)
    assert math.isnan(nothing.p_value)


def test_comparing_other_labels_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"config\.nothing_to_compare"):
        compare(rows([0.5]), rows([0.5], "liver"))


@pytest.mark.parametrize("n", [1, 2, 3, 30])
def test_wilcoxon_of_few_and_of_equal_differences(n: int) -> None:
    found = compare(rows([0.5] * n), rows([0.75] * n))[0]
    assert 0 < found.p_value <= 1
    assert found.wins == n


def test_rows_come_back_from_their_file(tmp_path: Path, mixed: list[CaseRow]) -> None:
    path = write_rows(tmp_path / "out" / "cases.csv", mixed)
    assert read_rows(path) == mixed
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["hd95_mm"] for line in lines] == ["3.0", "3.0", "3.0", "inf", "0.0", "", ""]
    assert [p.name for p in path.parent.iterdir()] == ["cases.csv"]


def test_other_files_are_no_rows(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"evaluation\.no_table"):
        read_rows(tmp_path / "nothing.csv")
    for text in ("a,b\n1,2\n", "case,label,status,reason,resampled\na,b,fine,,no\n", "case,label,status\na,b,ok\n"):
        (tmp_path / "other.csv").write_text(text)
        with pytest.raises(InputError, match=r"evaluation\.no_table"):
            read_rows(tmp_path / "other.csv")


def test_the_summary_is_strict_json(tmp_path: Path, mixed: list[CaseRow]) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    comparison = compare(mixed, mixed)
    path = write_summary(tmp_path / "summary.json", summarise(mixed), comparison, {"seed": 0, "reference": Path("r")})
    document = json.loads(path.read_text(), parse_constant=refuse)
    assert document["schema"] == "pancreas_seg.evaluation/1"
    assert (document["seed"], document["reference"]) == (0, "r")
    label = document["labels"][0]
    assert (label["label"], label["n_cases"], label["n_failed"]) == ("pancreas", 7, 1)
    assert (label["metrics"]["hd95_mm"]["maximum"], label["metrics"]["hd95_mm"]["infinite"]) == (None, 1)
    assert label["worst"][0] == ["missed", 0.0]
    assert document["comparison"][0]["ties"] == 5


def test_the_picture(tmp_path: Path, mixed: list[CaseRow]) -> None:
    path = plot_evaluation(mixed, tmp_path / "evaluation.png")
    picture = imread(path)
    assert picture.shape[:2] == (900, 1200)
    assert picture[..., :3].min() < 0.5
    first = path.read_bytes()
    assert plot_evaluation(mixed, path).read_bytes() == first


@pytest.mark.parametrize("n", [0, 1])
def test_the_picture_of_hardly_any_case(tmp_path: Path, n: int) -> None:
    few = [*rows([0.8] * n), CaseRow("x", "pancreas", "failed", "bug: $")]
    assert plot_evaluation(few, tmp_path / "evaluation.png", "pancreas").is_file()
    with pytest.raises(ValueError, match="liver"):
        plot_evaluation(few, tmp_path / "evaluation.png", "liver")
    with pytest.raises(ValueError, match="no row"):
        plot_evaluation([], tmp_path / "evaluation.png")
