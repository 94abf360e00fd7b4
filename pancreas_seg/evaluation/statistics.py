"""What the rows of many cases say together, and whether one set of predictions is better than another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.errors import ConfigError
from pancreas_seg.evaluation.compare import CaseRow

RESAMPLES = 10_000
"""Bootstrap samples."""

N_WORST = 10

_HIGHER_IS_BETTER = ("dice", "iou", "precision", "recall", "nsd_")
_LOWER_IS_BETTER = ("hd95_mm", "mean_surface_distance_mm")
_NEARER_TO_0_IS_BETTER = ("volume_difference_ml", "volume_difference_percent")


@dataclass(frozen=True)
class Distribution:
    """One metric over cases.

    Parameters
    ----------
    n : int
        Cases with a value, infinite ones included.
    infinite : int
        Cases in which the metric is infinite because just one of the masks is empty. They are left out of ``mean``,
        ``sd`` and the interval, which do not exist with them, and are the highest values of median and quartiles.
    mean : float
    sd : float
        Standard deviation with n - 1; NaN below two finite values.
    median, lower_quartile, upper_quartile : float
        Linear between order statistics.
    minimum, maximum : float
    mean_low, mean_high : float
        Bootstrap 95 % confidence interval of the mean by the percentile method (Efron & Tibshirani 1993, chapter 13);
        NaN below two finite values.
    """

    n: int
    infinite: int
    mean: float
    sd: float
    median: float
    lower_quartile: float
    upper_quartile: float
    minimum: float
    maximum: float
    mean_low: float
    mean_high: float


@dataclass(frozen=True)
class Summary:
    """One label over all cases.

    Parameters
    ----------
    label : str
    n_cases, n_ok, n_missing, n_failed : int
        ``n_cases`` is the sum of the others; the metrics are over ``n_ok``.
    n_both_empty, n_only_reference_empty, n_only_prediction_empty : int
        Among ``n_ok``. Both empty counts as full agreement.
    n_resampled : int
    metrics : dict of str to Distribution
    worst : tuple of (case, Dice)
        Ascending, at most `N_WORST`.
    not_evaluated : tuple of (case, status, reason)
        Missing and failed cases.
    """

    label: str
    n_cases: int
    n_ok: int
    n_missing: int
    n_failed: int
    n_both_empty: int
    n_only_reference_empty: int
    n_only_prediction_empty: int
    n_resampled: int
    metrics: dict[str, Distribution]
    worst: tuple[tuple[str, float], ...]
    not_evaluated: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Comparison:
    """One metric of predictions B beside predictions A, over the cases that are "ok" in both.

    Parameters
    ----------
    label, metric : str
    n : int
        Cases in both.
    n_unpaired : int
        Cases that are "ok" in just one of the two, or in none; they are not part of anything else here.
    wins, losses, ties : int
        Cases in which B is better, worse, the same. Better is nearer to 0 for volume differences, lower for distances,
        higher for all others.
    mean_difference, median_difference : float
        B minus A (of absolute values for volume differences); the mean is over finite differences.
    p_value : float
        Two-sided Wilcoxon signed-rank test (Wilcoxon 1945) without ties; 1.0 if there are only ties, NaN if ``n`` is
        0. An infinite difference ranks above all finite ones. Not corrected for the number of tests.
    """

    label: str
    metric: str
    n: int
    n_unpaired: int
    wins: int
    losses: int
    ties: int
    mean_difference: float
    median_difference: float
    p_value: float


def summarise(rows: Sequence[CaseRow], *, seed: int = 0, resamples: int = RESAMPLES) -> list[Summary]:
    """Mean, spread, interval and worst cases of each label, with missing and failed cases counted.

    Parameters
    ----------
    rows : sequence of CaseRow
    seed : int
        Of the bootstrap; cases are taken as independent.
    resamples : int
        Bootstrap samples.

    Returns
    -------
    list of Summary
        One per label, in the order in which they first occur.
    """
    return [_summary(label, [row for row in rows if row.label == label], seed, resamples) for label in _labels(rows)]


def compare(rows_a: Sequence[CaseRow], rows_b: Sequence[CaseRow]) -> list[Comparison]:
    """Whether predictions B are better than predictions A of the same cases, for each label and metric of both.

    Raises
    ------
    ConfigError
        If the two have no label in common.
    """
    labels = [label for label in _labels(rows_a) if label in _labels(rows_b)]
    if not labels:
        raise ConfigError(
            "config.nothing_to_compare",
            where="rows",
            found=f"labels {', '.join(_labels(rows_a)) or 'none'} and {', '.join(_labels(rows_b)) or 'none'}",
            expected="at least one label in both",
            advice="Evaluate both with the same labels.",
        )
    comparisons = []
    for label in labels:
        a, b = _values_by_case(rows_a, label), _values_by_case(rows_b, label)
        cases = [case for case in a if case in b]
        named = {row.case for row in (*rows_a, *rows_b) if row.label == label}
        metrics = list(_columns([a[case] for case in cases])) if cases else ["dice"]
        for metric in metrics:
            if _direction(metric) == 0 or any(metric not in b[case] for case in cases):
                continue
            pairs = np.array([(a[case][metric], b[case][metric]) for case in cases], dtype=np.float64).reshape(-1, 2)
            comparisons.append(_comparison(label, metric, pairs, len(named) - len(cases)))
    return comparisons


def distribution(values: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES) -> Distribution:
    """Mean, spread, order statistics and bootstrap interval of numbers of which some may be infinite."""
    x = np.asarray(values, dtype=np.float64)
    finite = x[np.isfinite(x)]
    low, high = _bootstrap_interval(finite, seed, resamples)
    lower, median, upper = (_quantile(x, q) for q in (0.25, 0.5, 0.75))
    return Distribution(
        n=len(x),
        infinite=len(x) - len(finite),
        mean=float(finite.mean()) if len(finite) else math.nan,
        sd=float(finite.std(ddof=1)) if len(finite) > 1 else math.nan,
        median=median,
        lower_quartile=lower,
        upper_quartile=upper,
        minimum=float(x.min()) if len(x) else math.nan,
        maximum=float(x.max()) if len(x) else math.nan,
        mean_low=low,
        mean_high=high,
    )


def _summary(label: str, rows: list[CaseRow], seed: int, resamples: int) -> Summary:
    found = [(row.case, row.agreement) for row in rows if row.agreement is not None]
    empty = [(a.reference_ml == 0, a.prediction_ml == 0) for _, a in found]
    columns = _columns([a.values() for _, a in found])
    ascending = sorted(((case, a.dice) for case, a in found), key=lambda item: item[1])
    return Summary(
        label=label,
        n_cases=len(rows),
        n_ok=len(found),
        n_missing=sum(row.status == "missing" for row in rows),
        n_failed=sum(row.status == "failed" for row in rows),
        n_both_empty=empty.count((True, True)),
        n_only_reference_empty=empty.count((True, False)),
        n_only_prediction_empty=empty.count((False, True)),
        n_resampled=sum(row.resampled for row in rows),
        metrics={name: distribution(x, seed=seed, resamples=resamples) for name, x in columns.items()},
        worst=tuple(ascending[:N_WORST]),
        not_evaluated=tuple((row.case, row.status, row.reason) for row in rows if row.status != "ok"),
    )


def _comparison(label: str, metric: str, pairs: NDArray[np.float64], n_unpaired: int) -> Comparison:
    if metric in _NEARER_TO_0_IS_BETTER:
        pairs = np.abs(pairs)
    same = pairs[:, 0] == pairs[:, 1]  # infinite in both is a tie, too
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, pairs[:, 1] - pairs[:, 0])
    better = _direction(metric) * difference
    finite = difference[np.isfinite(difference)]
    return Comparison(
        label=label,
        metric=metric,
        n=len(pairs),
        n_unpaired=n_unpaired,
        wins=int((better > 0).sum()),
        losses=int((better < 0).sum()),
        ties=int(same.sum()),
        mean_difference=float(finite.mean()) if len(finite) else math.nan,
        median_difference=_quantile(difference, 0.5),
        p_value=_wilcoxon(difference),
    )


def _wilcoxon(difference: NDArray[np.float64]) -> float:
    from scipy.stats import wilcoxon

    if len(difference) == 0:
        return math.nan
    moved = difference[difference != 0]
    if len(moved) == 0:
        return 1.0
    largest = np.abs(moved[np.isfinite(moved)]).max(initial=1.0)
    return float(wilcoxon(np.clip(moved, -2.0 * largest, 2.0 * largest)).pvalue)


def _bootstrap_interval(x: NDArray[np.float64], seed: int, resamples: int) -> tuple[float, float]:
    if len(x) < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    at_once = max(1, 1_000_000 // len(x))
    means = [
        x[rng.integers(len(x), size=(min(at_once, resamples - done), len(x)))].mean(axis=1)
        for done in range(0, resamples, at_once)
    ]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(low), float(high)


def _quantile(x: NDArray[np.float64], q: float) -> float:
    """As `numpy.quantile`, but infinite beside an infinite neighbour where that gives NaN."""
    if len(x) == 0:
        return math.nan
    ordered = np.sort(x)
    position = q * (len(x) - 1)
    below = math.floor(position)
    a, b, weight = float(ordered[below]), float(ordered[math.ceil(position)]), position - below
    if a == b or weight == 0.0:
        return a
    if math.isinf(a) and math.isinf(b):
        return math.nan
    return a + weight * (b - a) if math.isfinite(a) else a


def _columns(values: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    return {name: [row[name] for row in values] for name in values[0]} if values else {}


def _values_by_case(rows: Sequence[CaseRow], label: str) -> dict[str, dict[str, Any]]:
    return {row.case: row.agreement.values() for row in rows if row.label == label and row.agreement is not None}


def _labels(rows: Sequence[CaseRow]) -> list[str]:
    return list(dict.fromkeys(row.label for row in rows))


def _direction(metric: str) -> int:
    """1 if higher is better, -1 if lower is, 0 if the metric says nothing about how good a prediction is."""
    if metric in _LOWER_IS_BETTER or metric in _NEARER_TO_0_IS_BETTER:
        return -1
    return 1 if metric.startswith(_HIGHER_IS_BETTER) else 0
