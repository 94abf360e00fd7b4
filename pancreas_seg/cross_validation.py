"""A k-fold study in one call: train each fold, segment what it did not see, evaluate all of that together."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pancreas_seg.config import Config
from pancreas_seg.data.manifest import Case, Manifest, load_manifest
from pancreas_seg.data.transforms import class_table
from pancreas_seg.errors import ManifestError
from pancreas_seg.evaluation.compare import CaseRow, evaluate_cases
from pancreas_seg.evaluation.study import Study, write_study
from pancreas_seg.inference.cohort import CaseInput, CaseOptions, CaseOutcome, segment_cases
from pancreas_seg.inference.segmenter import Segmenter
from pancreas_seg.io import replacing
from pancreas_seg.network.weights import Weights
from pancreas_seg.training.processes import joined
from pancreas_seg.training.trainer import TrainingResult, train

UNSEEN = "unseen"
"""Folder of a fold with the masks of the cases that it has not seen."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoldResult:
    """One fold: its training, and what became of the cases that it had not seen."""

    fold: int
    training: TrainingResult
    outcomes: tuple[CaseOutcome, ...]


@dataclass(frozen=True)
class CrossValidation:
    """All folds and the evaluation of their out-of-fold masks; None in processes that only help to train."""

    folds: tuple[FoldResult, ...]
    study: Study | None
    written: tuple[Path, ...]


def cross_validate(
    manifest: str | Path,
    out: str | Path,
    config: Config,
    *,
    root: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    show_progress: bool = False,
    init: Weights | None = None,
) -> CrossValidation:
    """Train every fold of a manifest and evaluate each case with the network that has not seen it.

    Writes ``fold_<k>/`` (as `train` does), ``fold_<k>/unseen/<case>/`` (as `segment` does), ``evaluation/`` (as
    `evaluate` does) and ``folds.csv``.

    Parameters
    ----------
    manifest, out, config, root, device, show_progress, init
        See `train`.
    resume : bool
        Whether to go on with an interrupted study: finished folds and cases are not done again.

    Raises
    ------
    ManifestError
        If fewer than two folds are in the manifest.
    PancreasSegError
        Whatever `train` raises. A case that cannot be segmented is counted as failed and ends nothing.
    """
    out = Path(out)
    data = load_manifest(manifest, None if root is None else Path(root))
    if len(data.folds) < 2:
        raise ManifestError(
            "manifest.too_few_folds",
            where=data.path,
            found=f"{len(data.folds)} folds",
            expected="two or more",
            advice="`pancreas-seg manifest build --folds K` makes folds.",
        )
    results = []
    with joined(device) as processes:
        for fold in data.folds:
            log.info("fold %d of %s", fold, ", ".join(map(str, data.folds)))
            training = train(
                manifest,
                out / f"fold_{fold}",
                config,
                root=root,
                fold=fold,
                resume=resume,
                device=device,
                show_progress=show_progress,
                init=init,
            )
            unseen = data.training_cases(fold)[1]
            outcomes = _segment(training.best, unseen, out / f"fold_{fold}" / UNSEEN, device) if processes.first else ()
            results.append(FoldResult(fold, training, outcomes))
            processes.wait()
        if not processes.first:
            return CrossValidation(tuple(results), None, ())
    rows = [row for case in data.of_split("training") for row in _evaluate(case, out, config)]
    study = write_study(rows, out / "evaluation")
    path = _write_folds(out / "folds.csv", data, results, rows)
    return CrossValidation(tuple(results), study, (path, *study.written))


def _segment(weights: Path, cases: Sequence[Case], out: Path, device: str) -> tuple[CaseOutcome, ...]:
    """Segment cases that these weights have not seen; finished ones of the same weights stay."""
    segmenter = Segmenter.from_weights(weights, device)
    inputs = [CaseInput(case.case_id, case.image) for case in cases]
    return tuple(segment_cases(segmenter, inputs, out, CaseOptions(resume=True)))


def _evaluate(case: Case, out: Path, config: Config) -> list[CaseRow]:
    """Rows of a case, one for each class of infer.output that it is labelled for; none for a case without a fold."""
    if case.fold is None or case.label is None:
        return []
    table = class_table(case.labels, config)
    wanted: dict[str, tuple[int, ...]] = {}
    found: dict[str, tuple[int, ...]] = {}
    for value, name in enumerate(config.infer.output, start=1):
        values = np.flatnonzero(table == 1 + config.data.classes.index(name)).tolist()
        if values:
            wanted[name], found[name] = tuple(values), (value,)
    mask = out / f"fold_{case.fold}" / UNSEEN / case.case_id / "mask.nii.gz"
    return evaluate_cases([(case.case_id, case.label, mask)], wanted, prediction_labels=found)


def _write_folds(path: Path, data: Manifest, folds: Sequence[FoldResult], rows: Sequence[CaseRow]) -> Path:
    """One line for each fold: its cases, its training, and the mean Dice of the masks of its cases, by structure."""
    fold_of = {case.case_id: case.fold for case in data.of_split("training")}
    names = list(dict.fromkeys(row.label for row in rows))
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        header = ["fold", "training_cases", "unseen_cases", "rounds", "best_validation_dice"]
        writer.writerow([*header, *(f"dice_{name}" for name in names)])
        for result in folds:
            seen, unseen = data.training_cases(result.fold)
            of_fold = [row for row in rows if fold_of[row.case] == result.fold and row.agreement is not None]
            means = []
            for name in names:
                values = [row.agreement.dice for row in of_fold if row.label == name and row.agreement is not None]
                means.append(f"{np.nanmean(values):.4f}" if values else "")
            best = f"{result.training.best_dice:.4f}"
            writer.writerow([result.fold, len(seen), len(unseen), result.training.rounds, best, *means])
    return path
