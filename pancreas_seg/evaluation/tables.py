"""Files of an evaluation: one line per case and label, and a summary. They appear only when they are complete."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pancreas_seg._version import __version__
from pancreas_seg.errors import InputError
from pancreas_seg.evaluation.compare import CaseRow
from pancreas_seg.evaluation.metrics import Agreement
from pancreas_seg.evaluation.statistics import Comparison, Summary
from pancreas_seg.io import replacing

SUMMARY_SCHEMA = "pancreas_seg.evaluation/1"

_HEAD = ("case", "label", "status", "reason", "resampled")
_FIELDS = tuple(name for name in Agreement.__dataclass_fields__ if name != "nsd")


def write_rows(path: str | Path, rows: Sequence[CaseRow]) -> Path:
    """Write a CSV with one line per case and label.

    The metrics of cases that are not "ok" are empty; infinite ones read ``inf``, which numpy, pandas and R take for
    what it is. All digits are kept, so that a table that is read again ties with itself.
    """
    path = Path(path)
    values = [{} if row.agreement is None else row.agreement.values() for row in rows]
    columns = list(dict.fromkeys(name for row in values for name in row))
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*_HEAD, *columns])
        for row, numbers in zip(rows, values, strict=True):
            head = (row.case, row.label, row.status, row.reason, "yes" if row.resampled else "no")
            writer.writerow([*head, *(repr(numbers[name]) if name in numbers else "" for name in columns)])
    return path


def read_rows(path: str | Path) -> list[CaseRow]:
    """Read what `write_rows` wrote.

    Raises
    ------
    InputError
        If the file cannot be read or is no such table.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [_row(line) for line in csv.DictReader(file, strict=True)]
    except OSError as error:
        raise _no_table(path, f"a file that cannot be opened ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise _no_table(path, f"something else ({type(error).__name__}: {error})") from error


def write_summary(
    path: str | Path,
    summaries: Sequence[Summary],
    comparisons: Sequence[Comparison] = (),
    facts: dict[str, Any] | None = None,
) -> Path:
    """Write a JSON file with all summaries, comparisons, and facts of the caller's such as files and settings.

    JSON knows neither infinity nor NaN: both become null, and ``infinite`` says of how many cases.
    """
    path = Path(path)
    document = {
        "schema": SUMMARY_SCHEMA,
        "version": __version__,
        **(facts or {}),
        "labels": [asdict(summary) for summary in summaries],
    }
    if comparisons:
        document["comparison"] = [asdict(comparison) for comparison in comparisons]
    with replacing(path) as temporary:
        text = json.dumps(_plain(document), indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    return path


def _row(line: dict[str, str]) -> CaseRow:
    status = line["status"]
    if status not in ("ok", "missing", "failed"):
        raise ValueError(f"status {status!r}")
    found = None
    if status == "ok":
        nsd = {
            float(name.removeprefix("nsd_").removesuffix("mm")): float(value)
            for name, value in line.items()
            if name.startswith("nsd_") and value != ""
        }
        found = Agreement(nsd=nsd, **{name: float(line[name]) for name in _FIELDS})
    resampled = line["resampled"] == "yes"
    return CaseRow(line["case"], line["label"], status, line["reason"], resampled, found)  # type: ignore[arg-type]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.10g}") if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def _no_table(path: Path, found: str) -> InputError:
    return InputError(
        "evaluation.no_table",
        where=path,
        found=found,
        expected="the CSV with one line per case and label that an evaluation writes",
        advice="Evaluate the predictions first and name that evaluation's table.",
    )
