"""A whole evaluation: predictions of a data set against its references, with tables, summary and plots on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pancreas_seg.data.manifest import load_manifest
from pancreas_seg.evaluation.compare import PANCREAS, CaseRow, Labels, Pair, evaluate_cases
from pancreas_seg.evaluation.metrics import TOLERANCES_MM
from pancreas_seg.evaluation.pairs import find_pairs
from pancreas_seg.evaluation.plots import plot_evaluation
from pancreas_seg.evaluation.statistics import Comparison, Summary, compare, summarise
from pancreas_seg.evaluation.tables import write_rows, write_summary

PANCREAS_NAMES = ("pancreas", "cancer")
"""Label names of a manifest that make up the pancreas, as in training by default."""


@dataclass(frozen=True)
class Study:
    """Rows of all cases, their summaries (one per structure), the comparison if there is one, and the files written."""

    rows: list[CaseRow]
    summaries: list[Summary]
    comparisons: list[Comparison]
    written: list[Path]


def evaluate_predictions(
    reference: Path,
    predictions: Path,
    out: Path,
    *,
    labels: Labels | None = None,
    prediction_labels: Labels | None = None,
    compare_with: Path | None = None,
    resample: bool = False,
    tolerances_mm: Sequence[float] = TOLERANCES_MM,
    on_case: Callable[[int, int], None] | None = None,
) -> Study:
    """Evaluate every case and write ``cases.csv``, ``summary.json`` and ``plots.png`` into ``out``.

    Parameters
    ----------
    reference : path
        Manifest, folder of label maps, or a label map.
    predictions : path
        Folder with ``<case>/mask.nii.gz`` or ``<case>.nii.gz``; or a mask, if ``reference`` is a label map.
    out : path
    labels : mapping of str to ints, optional
        Structures and their values in the references. By default the pancreas: for a manifest all values that its
        cases name "pancreas" or "cancer", otherwise 1.
    prediction_labels : mapping of str to ints, optional
        Their values in the predictions; by default as ``labels`` if these are given, otherwise 1.
    compare_with : path, optional
        A second set of predictions of the same cases; its rows go to ``cases_compared.csv``.
    resample : bool
        Whether to bring a prediction on another grid onto the reference's; otherwise such a case fails.
    tolerances_mm : sequence of float
        Of the surface Dice.
    on_case : callable, optional
        Called with cases done and cases in all.

    Raises
    ------
    InputError, ManifestError, ConfigError
        As `find_pairs` and `evaluate_cases`; a single bad case is a row that says so.
    """

    def rows_of(folder: Path) -> list[CaseRow]:
        rows: list[CaseRow] = []
        for pairs, wanted in _groups(reference, find_pairs(reference, folder), labels):
            found = prediction_labels or (labels if labels is not None else PANCREAS)
            rows += evaluate_cases(
                pairs,
                wanted,
                prediction_labels=found,
                tolerances_mm=tolerances_mm,
                resample=resample,
                on_case=on_case,
            )
        return rows

    rows = rows_of(predictions)
    return write_study(rows, out, None if compare_with is None else rows_of(compare_with))


def write_study(rows: list[CaseRow], out: Path, others: list[CaseRow] | None = None) -> Study:
    """Summarise rows and write ``cases.csv``, ``summary.json`` and ``plots.png``; ``others`` are compared with them."""
    summaries = summarise(rows)
    written = [write_rows(out / "cases.csv", rows)]
    comparisons: list[Comparison] = []
    if others is not None:
        comparisons = compare(rows, others)
        written.append(write_rows(out / "cases_compared.csv", others))
    written.append(plot_evaluation(rows, out / "plots.png"))
    written.append(write_summary(out / "summary.json", summaries, comparisons))
    return Study(rows, summaries, comparisons, written)


def _groups(reference: Path, pairs: list[Pair], labels: Labels | None) -> list[tuple[list[Pair], Labels]]:
    """Pairs that share the meaning of their label values."""
    if labels is not None or reference.suffix.lower() != ".json":
        return [(pairs, labels if labels is not None else PANCREAS)]
    names = {case.case_id: case.labels for case in load_manifest(reference).cases}
    groups: dict[tuple[int, ...], list[Pair]] = {}
    for pair in pairs:
        values = tuple(sorted(value for value, name in names[pair[0]].items() if name in PANCREAS_NAMES))
        groups.setdefault(values, []).append(pair)
    return [(group, {"pancreas": values}) for values, group in groups.items()]
