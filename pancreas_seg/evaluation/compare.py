"""Predictions against references: one row per case and label, whatever happens to the case."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.errors import ConfigError, InputError, PancreasSegError
from pancreas_seg.evaluation.metrics import TOLERANCES_MM, Agreement, agreement
from pancreas_seg.geometry import Box
from pancreas_seg.io import Mask, read_mask
from pancreas_seg.resampling import resample as to_grid

log = logging.getLogger(__name__)

GRID_TOLERANCE_MM = 0.1
"""Largest distance between the same corner in two files that still counts as the same grid."""

Labels = Mapping[str, Sequence[int]]
"""Name of a structure to the label values that make it up together."""

PANCREAS: Labels = {"pancreas": (1,)}

Pair = tuple[str, Path, Path | None]
"""Case, reference file, and prediction file or None if there is none."""

Status = Literal["ok", "missing", "failed"]


@dataclass(frozen=True)
class CaseRow:
    """One label of one case.

    Parameters
    ----------
    case, label : str
    status : {"ok", "missing", "failed"}
        "missing": there is no prediction; "failed": a file cannot be read, or the grids differ.
    reason : str
        Why it is not "ok": a stable code, a colon, and text without paths, which may name a patient.
    resampled : bool
        Whether the prediction was brought onto the reference's grid first.
    agreement : Agreement or None
        None unless "ok".
    """

    case: str
    label: str
    status: Status
    reason: str = ""
    resampled: bool = False
    agreement: Agreement | None = None


def evaluate_cases(
    pairs: Iterable[Pair],
    labels: Labels = PANCREAS,
    *,
    prediction_labels: Labels | None = None,
    tolerances_mm: Sequence[float] = TOLERANCES_MM,
    resample: bool = False,
    on_case: Callable[[int, int], None] | None = None,
) -> list[CaseRow]:
    """Compare each prediction with its reference; a bad case never ends the run and never drops out.

    Parameters
    ----------
    pairs : iterable of (case, reference, prediction)
        The prediction is None where there is none; a path where no file is means the same.
    labels : mapping of str to ints
        Structures to evaluate. Several values make a union, such as ``{"pancreas": (1,), "pancreas_and_cancer":
        (1, 2)}`` for the Medical Segmentation Decathlon.
    prediction_labels : mapping of str to ints, optional
        For each structure, its values in the predictions, if they are other ones.
    tolerances_mm : sequence of float
        Of the surface Dice.
    resample : bool
        Whether to bring a prediction on another grid onto the reference's by nearest neighbour. Otherwise such a
        case fails.
    on_case : callable, optional
        Called after each case with the cases done and the cases in all.

    Returns
    -------
    list of CaseRow
        ``len(labels)`` rows per case, in the order of the pairs and labels.

    Raises
    ------
    ConfigError
        If there is no pair, two cases have the same name, or the labels or tolerances make no sense.
    """
    pairs = list(pairs)
    _check_pairs(pairs)
    prediction_labels = labels if prediction_labels is None else prediction_labels
    _check_labels(labels, prediction_labels)
    _check_tolerances(tolerances_mm)
    rows: list[CaseRow] = []
    for done, (case, reference, prediction) in enumerate(pairs, start=1):
        try:
            rows += _evaluate_case(case, reference, prediction, labels, prediction_labels, tolerances_mm, resample)
        except PancreasSegError as error:
            log.error("%s: failed: %s", case, error)
            reason = f"{error.code}: found {error.found}; expected {error.expected}."
            rows += [CaseRow(case, label, "failed", reason) for label in labels]
        except Exception as error:
            log.exception("%s: failed", case)
            rows += [CaseRow(case, label, "failed", f"bug: {type(error).__name__}") for label in labels]
        if on_case is not None:
            on_case(done, len(pairs))
    return rows


def _evaluate_case(
    case: str,
    reference_path: Path,
    prediction_path: Path | None,
    labels: Labels,
    prediction_labels: Labels,
    tolerances_mm: Sequence[float],
    resample: bool,
) -> list[CaseRow]:
    if prediction_path is None or not Path(prediction_path).exists():
        log.error("%s: no prediction", case)
        return [CaseRow(case, label, "missing", "evaluation.no_prediction: there is no file") for label in labels]
    reference, prediction = read_mask(reference_path), read_mask(prediction_path)
    same = reference.geometry.same_grid(prediction.geometry, GRID_TOLERANCE_MM)
    values = prediction.labels if same else _on_grid_of(reference, prediction, resample)
    cropped, cropped_values = _without_background(reference.labels, values)
    rows = []
    for label in labels:
        wanted, found = _union(cropped, labels[label]), _union(cropped_values, prediction_labels[label])
        result = agreement(wanted, found, reference.geometry.spacing_mm, tolerances_mm)
        rows.append(CaseRow(case, label, "ok", resampled=not same, agreement=result))
    return rows


def _on_grid_of(reference: Mask, prediction: Mask, allowed: bool) -> NDArray[np.integer[Any]]:
    if not allowed:
        a, b = reference.geometry, prediction.geometry
        apart = f", up to {a.distance_mm(b):.3g} mm apart" if a.shape == b.shape else ""
        raise InputError(
            "input.grids_differ",
            where=prediction.path,
            found=f"a grid of {b.shape} {b.orientation}{apart}",
            expected=f"the reference's grid of {a.shape} {a.orientation}, within {GRID_TOLERANCE_MM} mm",
            advice="Resample one onto the other, or ask the evaluation to do so.",
        )
    return to_grid(prediction.labels, prediction.geometry, reference.geometry, "nearest")


def _without_background(
    reference: NDArray[np.integer[Any]], prediction: NDArray[np.integer[Any]]
) -> tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]]:
    """Both label maps, cut to the box outside which both are 0; no metric depends on what is out there."""
    boxes = [box for box in (Box.around(reference), Box.around(prediction)) if box is not None]
    if not boxes:
        return reference[:1, :1, :1], prediction[:1, :1, :1]
    block = tuple(slice(min(b.start[a] for b in boxes), max(b.stop[a] for b in boxes)) for a in range(3))
    return reference[block], prediction[block]


def _union(labels: NDArray[np.integer[Any]], values: Sequence[int]) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = labels == values[0]
    for value in values[1:]:
        mask |= labels == value
    return mask


def _check_pairs(pairs: Sequence[Pair]) -> None:
    if not pairs:
        raise _config_error("no_cases", "cases", "none", "at least one pair of files", "Name a reference.")
    seen: set[str] = set()
    for case, _, _ in pairs:
        if case in seen:
            raise _config_error("duplicate_case", case, "the case twice", "each case once", "Rename one of them.")
        seen.add(case)


def _check_labels(labels: Labels, prediction_labels: Labels) -> None:
    if not labels:
        raise _config_error("no_labels", "labels", "none", "at least one", "Name a structure and its label value.")
    if set(labels) != set(prediction_labels):
        found = ", ".join(sorted(prediction_labels)) or "none"
        expected = f"those of the reference: {', '.join(sorted(labels))}"
        raise _config_error("labels_differ", "prediction_labels", found, expected, "Name the same structures in both.")
    for name, values in _items(labels, prediction_labels):
        if not values or any(isinstance(v, bool) or not isinstance(v, int) or not 1 <= v <= 65535 for v in values):
            expected = "one or more whole numbers from 1 to 65535 (0 is the background)"
            raise _config_error("bad_label", f"label {name}", repr(values), expected, "Correct the label's values.")


def _items(*mappings: Labels) -> Iterator[tuple[str, Sequence[int]]]:
    for mapping in mappings:
        yield from mapping.items()


def _check_tolerances(tolerances_mm: Sequence[float]) -> None:
    if any(not (np.isfinite(t) and t >= 0) for t in tolerances_mm):
        expected = "finite lengths in millimetres, not below 0"
        raise _config_error("bad_tolerance", "tolerances_mm", str(tuple(tolerances_mm)), expected, "Correct them.")


def _config_error(code: str, where: str, found: str, expected: str, advice: str) -> ConfigError:
    return ConfigError(f"config.{code}", where=where, found=found, expected=expected, advice=advice)
