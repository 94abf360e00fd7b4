"""Reading every file of a manifest and listing all that is wrong with them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.data.manifest import Case, Manifest
from pancreas_seg.errors import InputError

if TYPE_CHECKING:
    from pancreas_seg.geometry import Geometry
    from pancreas_seg.io import Scan

GRID_TOLERANCE_MM = 0.1
"""How far the corners of a CT and its label map may lie apart; the same as in training."""

ORGAN = "pancreas"
"""The label name that each label map has to contain."""


@dataclass(frozen=True)
class Finding:
    """Something wrong with a case.

    Parameters
    ----------
    case_id : str
    kind : str
        One of ``image_missing``, ``label_missing``, ``image_unreadable``, ``label_unreadable``,
        ``image_sha256_differs``, ``label_sha256_differs``, ``grids_differ``, ``unknown_labels``, ``no_pancreas``,
        ``duplicate_image``, ``patient_in_two_folds``, ``patient_in_two_lists``.
    detail : str
        What was found, in one line.
    """

    case_id: str
    kind: str
    detail: str


def check_manifest(manifest: Manifest, progress: Callable[[int, int], None] | None = None) -> list[Finding]:
    """Open every file of a manifest, one case at a time, and collect all problems.

    Parameters
    ----------
    manifest : Manifest
    progress : callable, optional
        Called with the number of finished and of all cases.

    Returns
    -------
    list of Finding
        In the manifest's order of cases; empty if nothing is wrong. A patient in two folds or lists is reported at
        the patient's first case, two equal images at the second.
    """
    findings: list[Finding] = []
    first_with: dict[str, tuple[str, str]] = {}
    for i, case in enumerate(manifest.cases):
        findings.extend(_check_case(case, first_with))
        if progress is not None:
            progress(i + 1, len(manifest.cases))
    findings.extend(_check_patients(manifest.cases))
    order = {case.case_id: i for i, case in enumerate(manifest.cases)}
    return sorted(findings, key=lambda finding: order[finding.case_id])


def format_findings(findings: Sequence[Finding], n_cases: int) -> str:
    """The findings as one plain text table under a line that counts them."""
    if not findings:
        return f"{n_cases} case(s) checked, no problem found"
    rows = [("case", "problem", "detail")]
    rows += [(f.case_id, f.kind.replace("_", " "), " ".join(f.detail.split())) for f in findings]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}" for row in rows]
    rule = "  ".join("-" * width for width in (*widths, len("detail")))
    n_bad = len({finding.case_id for finding in findings})
    head = f"{n_cases} case(s) checked, {len(findings)} problem(s) in {n_bad} of them"
    return "\n".join([head, "", lines[0], rule, *lines[1:]])


def _check_case(case: Case, first_with: dict[str, tuple[str, str]]) -> Iterator[Finding]:
    """Findings in one case's files; ``first_with`` maps the hash of voxels to the first case's id and file hash."""
    from pancreas_seg.io import read_ct, read_mask

    scan, kind, why = _read(read_ct, case.image)
    if scan is None:
        yield Finding(case.case_id, f"image_{kind}", why)
    else:
        yield from _check_sha256(case.case_id, "image", scan.sha256, case.image_sha256)
        yield from _check_duplicate(case.case_id, scan, first_with)
    if case.label is None:
        return
    geometry = None if scan is None else scan.geometry
    del scan
    mask, kind, why = _read(read_mask, case.label)
    if mask is None:
        yield Finding(case.case_id, f"label_{kind}", why)
        return
    yield from _check_sha256(case.case_id, "label", mask.sha256, case.label_sha256)
    if geometry is not None and not geometry.same_grid(mask.geometry, GRID_TOLERANCE_MM):
        yield Finding(case.case_id, "grids_differ", _difference(geometry, mask.geometry))
    yield from _check_labels(case, mask.labels)


def _read(reader: Callable[[Path], Any], path: Path) -> tuple[Any, str, str]:
    try:
        if not path.exists():
            return None, "missing", f"no file {path}"
        return reader(path), "", ""
    except (InputError, OSError) as error:
        return None, "unreadable", str(error)


def _check_sha256(case_id: str, what: str, found: str, recorded: str | None) -> Iterator[Finding]:
    if recorded is not None and found != recorded:
        detail = f"SHA-256 is {found[:12]}..., the manifest has {recorded[:12]}...: the file was changed or replaced"
        yield Finding(case_id, f"{what}_sha256_differs", detail)


def _check_duplicate(case_id: str, scan: Scan, first_with: dict[str, tuple[str, str]]) -> Iterator[Finding]:
    digest = hashlib.sha256(str(scan.image.shape).encode())
    for plane in np.moveaxis(scan.image, 2, 0):
        digest.update(np.ascontiguousarray(plane.T, dtype=np.float32).data)  # whatever type holds whole HU
    first, sha256 = first_with.setdefault(digest.hexdigest(), (case_id, scan.sha256))
    if first != case_id:
        how = "the same file" if sha256 == scan.sha256 else "the same voxels in another file"
        yield Finding(case_id, "duplicate_image", f"{how} as case {first}")


def _difference(image: Geometry, label: Geometry) -> str:
    if image.shape != label.shape:
        return f"the image has {_times(image.shape)} voxels, the label map {_times(label.shape)}"
    detail = f"corners lie up to {image.distance_mm(label):.2f} mm apart (at most {GRID_TOLERANCE_MM} mm are allowed)"
    if image.orientation != label.orientation:
        detail += f"; the image's axes point {image.orientation}, the label map's {label.orientation}"
    return detail


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _check_labels(case: Case, array: NDArray[Any]) -> Iterator[Finding]:
    values = np.unique(array[array != 0]).tolist()
    names = ", ".join(f"{value} {name}" for value, name in case.labels.items())
    unknown = [value for value in values if value not in case.labels]
    if unknown:
        shown = ", ".join(map(str, unknown[:10])) + (", ..." if len(unknown) > 10 else "")
        yield Finding(case.case_id, "unknown_labels", f"values without a name: {shown} (named: {names})")
    if ORGAN not in case.labels.values():
        yield Finding(case.case_id, "no_pancreas", f"no value is named {ORGAN} (named: {names})")
    elif not any(case.labels.get(value) == ORGAN for value in values):
        found = ", ".join(map(str, values[:10])) or "none but 0"
        yield Finding(case.case_id, "no_pancreas", f"no voxel is named {ORGAN}; values found: {found}")


def _check_patients(cases: Sequence[Case]) -> Iterator[Finding]:
    of_patient: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        of_patient[case.patient_id].append(case)
    for same in of_patient.values():
        if len({case.split for case in same}) > 1:
            detail = ", ".join(f"{case.case_id} ({case.split})" for case in same)
            yield Finding(same[0].case_id, "patient_in_two_lists", f"one patient: {detail}")
        training = [case for case in same if case.split == "training"]
        if len({case.fold for case in training}) > 1:
            detail = ", ".join(f"{c.case_id} ({'no fold' if c.fold is None else f'fold {c.fold}'})" for c in training)
            yield Finding(training[0].case_id, "patient_in_two_folds", f"one patient: {detail}")
