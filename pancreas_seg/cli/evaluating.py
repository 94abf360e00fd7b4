"""The verb `evaluate`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pancreas_seg.cli.terminal import DONE, PARTLY, REFUSED, describe, progress_bar
from pancreas_seg.errors import ConfigError


def evaluate(options: argparse.Namespace) -> int:
    from pancreas_seg.evaluation.study import evaluate_predictions

    if options.out is None and options.compare is not None:
        raise ConfigError(
            "config.no_out",
            where="--compare",
            found="no --out",
            expected="a folder for both tables",
            advice="Add --out.",
        )
    with tempfile.TemporaryDirectory() as scratch:
        study = evaluate_predictions(
            options.reference,
            options.prediction,
            options.out or Path(scratch),
            labels=_structures(options.labels),
            prediction_labels=_structures(options.prediction_labels),
            compare_with=options.compare,
            resample=options.resample,
            tolerances_mm=options.tolerance_mm,
            on_case=progress_bar("evaluate", "case"),
        )
    if options.out is not None:
        print(*study.written, sep="\n")
    for summary in study.summaries:
        print(describe(summary), file=sys.stderr if options.out is not None else sys.stdout)
    for row in study.rows:
        if row.status != "ok":
            print(f"{row.case}: {row.status}: {row.reason}", file=sys.stderr)
    bad = sum(row.status != "ok" for row in study.rows)
    return DONE if not bad else REFUSED if bad == len(study.rows) else PARTLY


def _structures(options: Sequence[str]) -> dict[str, tuple[int, ...]] | None:
    """``NAME=VALUE+VALUE`` options as a mapping, or None for none."""
    structures = {}
    for option in options:
        name, equals, values = option.partition("=")
        parts = values.split("+")
        if not (name and equals and all(part.strip().isdigit() for part in parts)):
            raise ConfigError(
                "config.bad_label",
                where=f"--label {option}",
                found=repr(option),
                expected="NAME=VALUE or NAME=VALUE+VALUE, for example pancreas=1+2",
                advice="Give one --label for each structure.",
            )
        structures[name] = tuple(int(part) for part in parts)
    return structures or None
