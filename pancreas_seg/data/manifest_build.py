"""Making a manifest from the files of a data set."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pancreas_seg.data.manifest_files import Found, find_pairs, find_published, wrong_option
from pancreas_seg.data.manifest_published import PUBLISHED, Published
from pancreas_seg.errors import ManifestError

Layout = Literal["msd", "nih", "btcv", "pairs"]
Progress = Callable[[int, int], None]


def build_manifest(
    layout: Layout,
    root: str | Path,
    out: str | Path,
    *,
    folds: int | None = None,
    seed: int = 0,
    labels: Mapping[int, str] | None = None,
    images: Sequence[str] = (),
    label_files: Sequence[str] = (),
    image_suffix: str = "_0000",
    patient: str | None = None,
    name: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write the manifest of a data set on disk, with folds and the SHA-256 of each file.

    Images without a label map go to ``test``. Paths are relative to the manifest's folder if the data set lies in it,
    around it or beside it, and absolute otherwise.

    Parameters
    ----------
    layout : {"msd", "nih", "btcv", "pairs"}
        How the files are named: as in Decathlon Task07, NIH Pancreas-CT or BTCV, or images and label maps of the same
        name in two folders.
    root : path
        The data set's folder.
    out : path
        The manifest to write; it is replaced if it exists.
    folds : int, optional
        Number of folds to draw; 0 for none. By default the published folds, where there are some and all labelled
        cases have one, and 5 otherwise.
    seed : int
        Of the drawn folds. All cases of a patient get the same fold, and folds differ in size as little as possible.
    labels : mapping of int to str, optional
        Meaning of the label values; by default the published one, and ``{1: "pancreas"}`` for "pairs".
    images, label_files : sequences of str, optional
        Glob patterns below ``root``, in place of the layout's own.
    image_suffix : str
        What an image's name may have more than its label map's ("pairs" only; nnU-Net writes ``_0000``).
    patient : str, optional
        Regular expression with one group that finds the patient in a case's name. By default each case is a patient.
    name : str, optional
        Of the data set.
    progress : callable, optional
        Called with the number of finished and of all cases.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    ManifestError
        If no image is found, file names are not as the layout has them, two files are of the same case, or there are
        fewer patients than folds.
    ConfigError
        If an option makes no sense.
    """
    from pancreas_seg.io import replacing

    root, out = Path(root), Path(out)
    expression = _checked(layout, root, folds, patient)
    published = PUBLISHED.get(layout)
    withdrawn: list[dict[str, Any]] = []
    if published is None:
        found = find_pairs(root, images, label_files, image_suffix)
    else:
        found, withdrawn = find_published(root, published, images, label_files)
    patients = {case.case_id: _patient(case.case_id, expression) for case in found}
    fold_of, fold_note = _folds(found, patients, published, folds, seed)
    entries = []
    for i, case in enumerate(found):
        entries.append(_entry(case, patients[case.case_id], fold_of.get(case.case_id), published, root, out))
        if progress is not None:
            progress(i + 1, len(found))
    document = _head(name, root, published, labels, fold_note)
    training = [entry for entry in entries if "label" in entry]
    test = [entry for entry in entries if "label" not in entry]
    document |= {"numTraining": len(training), "numTest": len(test), "training": training}
    # MONAI fails on an empty test list.
    document |= {"test": test} if test else {}
    document |= {"withdrawn": withdrawn} if withdrawn else {}
    with replacing(out) as temporary:
        temporary.write_text(manifest_text(document), encoding="utf-8")
    return out


def manifest_text(document: Mapping[str, Any]) -> str:
    """JSON with one case per line, so that two versions can be compared."""
    parts = []
    for key, value in document.items():
        if isinstance(value, list) and value:
            text = ",\n".join(f"  {json.dumps(item, ensure_ascii=False)}" for item in value)
            parts.append(f"{json.dumps(key)}: [\n{text}\n ]")
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n " + ",\n ".join(parts) + "\n}\n"


def _checked(layout: str, root: Path, folds: int | None, patient: str | None) -> re.Pattern[str] | None:
    if layout != "pairs" and layout not in PUBLISHED:
        raise wrong_option("layout", layout, f"one of {', '.join(PUBLISHED)}, pairs")
    if folds is not None and (folds < 0 or folds == 1):
        raise wrong_option("folds", str(folds), "0 for none, or at least 2")
    if not root.is_dir():
        raise ManifestError(
            "manifest.no_folder", where=root, found="no folder", expected="the data set's folder", advice="Check it."
        )
    if patient is None:
        return None
    try:
        expression = re.compile(patient)
    except re.error as error:
        raise wrong_option("patient", f"{patient!r} ({error})", "a regular expression") from error
    if expression.groups != 1:
        raise wrong_option(
            "patient", f"{patient!r} with {expression.groups} groups", "a regular expression with one group"
        )
    return expression


def _patient(case_id: str, expression: re.Pattern[str] | None) -> str:
    if expression is None:
        return case_id
    match = expression.search(case_id)
    if match is None or not match[1]:
        raise ManifestError(
            "manifest.no_patient",
            where=case_id,
            found=f"no match of {expression.pattern!r}",
            expected="a patient in each case's name",
            advice="Correct the regular expression.",
        )
    return match[1]


def _folds(
    found: Sequence[Found], patients: Mapping[str, str], published: Published | None, folds: int | None, seed: int
) -> tuple[dict[str, int], str]:
    """Fold by case, and a sentence that says where it comes from."""
    labelled = [case for case in found if case.label is not None]
    if folds is None and published is not None and published.folds:
        fold_of = {case.case_id: published.folds[case.number] for case in labelled if case.number in published.folds}
        if len(fold_of) == len(labelled):
            return fold_of, published.fold_source
    n = 5 if folds is None else folds
    if n == 0 or not labelled:
        return {}, ""
    fold_of = draw_folds({case.case_id: patients[case.case_id] for case in labelled}, n, seed)
    return fold_of, f"`fold` is the fold in which the case validates, of {n} drawn by patient with seed {seed}."


def draw_folds(patient_of: Mapping[str, str], folds: int, seed: int) -> dict[str, int]:
    """Draw a fold for each case; all cases of a patient get the same, and the folds are of about the same size.

    Parameters
    ----------
    patient_of : mapping of str to str
        Patient by case.
    folds : int
    seed : int

    Raises
    ------
    ManifestError
        If there are fewer patients than folds.
    """
    cases_of = Counter(patient_of.values())
    if len(cases_of) < folds:
        raise ManifestError(
            "manifest.too_few_patients",
            where="folds",
            found=f"{len(cases_of)} patient(s) with a label map",
            expected=f"at least {folds}, one for each fold",
            advice="Ask for fewer folds, or for none with 0.",
        )
    names = sorted(cases_of)
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    size = [0] * folds
    fold_of: dict[str, int] = {}
    for name in sorted(order, key=lambda name: -cases_of[name]):
        fold_of[name] = size.index(min(size))
        size[fold_of[name]] += cases_of[name]
    return {case: fold_of[patient] for case, patient in patient_of.items()}


def _entry(
    case: Found, patient: str, fold: int | None, published: Published | None, root: Path, out: Path
) -> dict[str, Any]:
    entry: dict[str, Any] = {"case_id": case.case_id, "patient_id": patient, "image": _path(case.image, root, out)}
    if case.label is not None:
        entry["label"] = _path(case.label, root, out)
        schemes = published.splits if published is not None else {}
        splits = {scheme: of[case.number] for scheme, of in schemes.items() if case.number in of}
        entry |= {} if fold is None else {"fold": fold}
        entry |= {"splits": splits} if splits else {}
    entry["image_sha256"] = _sha256(case.image)
    if case.label is not None:
        entry["label_sha256"] = _sha256(case.label)
    return entry


def _path(path: Path, root: Path, out: Path) -> str:
    inner, folder = path.relative_to(root), out.parent.absolute()
    if root.absolute().is_relative_to(folder):
        return (root.absolute().relative_to(folder) / inner).as_posix()
    root, folder = root.resolve(), folder.resolve()
    try:
        start = Path(os.path.relpath(root, folder))
    except ValueError:  # another drive
        return (root / inner).as_posix()
    far = start.parts[:2] == ("..", "..")
    return ((root if far else start) / inner).as_posix()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _head(
    name: str | None, root: Path, published: Published | None, labels: Mapping[int, str] | None, fold_note: str
) -> dict[str, Any]:
    if published is not None:
        head = published.head(fold_note)
    else:
        head = {"name": root.resolve().name or "pairs", "description": fold_note, "modality": {"0": "CT"}}
    if labels is not None or published is None:
        named = {0: "background"} | dict(labels if labels is not None else {1: "pancreas"})
        head["labels"] = {str(value): label for value, label in sorted(named.items())}
    return head | ({} if name is None else {"name": name})
