"""Manifests: which cases a data set has, what its label values mean, and who trains and who validates.

A manifest is a JSON file in the form of MONAI's Decathlon datalist: ``labels``, and lists of cases under
``training``, ``validation`` and ``test``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pancreas_seg.errors import ManifestError

SPLITS = ("training", "validation", "test")
"""The lists of a manifest."""

_README = "See data_manifests/README.md for the form of a manifest."


@dataclass(frozen=True)
class Case:
    """One CT and, if it has one, its label map.

    Parameters
    ----------
    case_id, patient_id : str
        Several cases may be of one patient.
    image : Path
        The CT.
    label : Path or None
        The label map; None for a case without labels.
    labels : mapping of int to str
        What the values of this case's label map mean, without the background (0).
    fold : int or None
        The fold in which the case is validation.
    split : {"training", "validation", "test"}
    image_sha256, label_sha256 : str or None
        SHA-256 of the files as recorded in the manifest, in lower-case hexadecimal.
    """

    case_id: str
    patient_id: str
    image: Path
    label: Path | None
    labels: Mapping[int, str]
    fold: int | None
    split: str
    image_sha256: str | None = None
    label_sha256: str | None = None


@dataclass(frozen=True)
class Manifest:
    """A data set: its name, the meaning of its label values, and its cases."""

    path: Path
    name: str
    labels: Mapping[int, str]
    cases: tuple[Case, ...]

    def of_split(self, split: str) -> tuple[Case, ...]:
        """The cases of "training", "validation" or "test", in the manifest's order."""
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}, not one of {SPLITS}")
        return tuple(case for case in self.cases if case.split == split)

    @cached_property
    def folds(self) -> tuple[int, ...]:
        """The fold numbers that training cases carry, in ascending order."""
        return tuple(sorted({case.fold for case in self.of_split("training") if case.fold is not None}))

    def training_cases(self, fold: int | None = None) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
        """Cases to train with and cases to validate with.

        Parameters
        ----------
        fold : int or None
            With a number, the training cases of that fold validate and the other training cases train; the manifest's
            own validation list is left out of both. With None, all training cases train and the validation list,
            which may be empty, validates.

        Raises
        ------
        ManifestError
            If no case has that fold, or no case is left to train with.
        """
        training = self.of_split("training")
        if fold is None:
            train, validation = training, self.of_split("validation")
        else:
            if fold not in self.folds:
                raise _error(
                    "no_fold",
                    self.path,
                    f"folds {', '.join(map(str, self.folds))}" if self.folds else "no case with a fold",
                    f"fold {fold}",
                    "Choose one of the manifest's folds, or make folds with `pancreas-seg manifest build`.",
                )
            train = tuple(case for case in training if case.fold != fold)
            validation = tuple(case for case in training if case.fold == fold)
        if not train:
            expected = "at least one labelled case outside the validation cases"
            raise _error("no_training_cases", self.path, "no case to train with", expected, "Add cases to `training`.")
        return train, validation


def load_manifest(path: str | Path, root: str | Path | None = None, *, scheme: str | None = None) -> Manifest:
    """Read a manifest.

    Parameters
    ----------
    path : path
        The JSON file.
    root : path, optional
        Folder that the manifest's relative paths start from. By default the manifest's own ``root`` (itself relative
        to the manifest's folder), or else the manifest's folder.
    scheme : str, optional
        A key of the cases' ``splits``: take fold or split of each training case from there (a number is a fold, a
        word is one of "training", "validation", "test") and not from ``fold``.

    Returns
    -------
    Manifest

    Raises
    ------
    ManifestError
        If the file cannot be read or anything in it is malformed.
    """
    path = Path(path)
    document = _document(path)
    if root is None:
        root = path.parent / Path(_text(document, "root", str(path), ".")).expanduser()
    labels = _labels(document["labels"], f"{path}: labels") if "labels" in document else {}
    cases = []
    for split in SPLITS:
        entries = document.get(split, [])
        if not isinstance(entries, list):
            raise _wrong(f"{path}: {split}", entries, "a list of cases")
        for i, entry in enumerate(entries):
            cases.append(_case(entry, split, labels, Path(root), f"{path}: {split}[{i}]", scheme))
    if not cases:
        raise _error("empty", path, "no cases", "at least one case")
    _refuse_duplicates(cases, path)
    return Manifest(path, _text(document, "name", str(path), path.stem), labels, tuple(cases))


def _document(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        found = f"a file that cannot be read ({why})"
        raise _error("unreadable", path, found, "a JSON file", "Check the path and its permissions.") from error
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _error("not_json", path, f"text that is no JSON ({error})", "JSON") from error
    if not isinstance(document, dict):
        raise _wrong(str(path), document, "an object with `labels` and `training`")
    if "training" not in document:
        expected = "a list of cases under `training` (it may be empty if there is a `test` list)"
        raise _error("no_training", path, "no key `training`", expected)
    return document


def _case(entry: object, split: str, labels: Mapping[int, str], root: Path, where: str, scheme: str | None) -> Case:
    from pancreas_seg.io import case_name

    if split == "test" and isinstance(entry, str):
        entry = {"image": entry}
    if not isinstance(entry, dict):
        raise _wrong(where, entry, "an object with `image` and `label`")
    if "image" not in entry:
        raise _error("no_image", where, "no key `image`", "the CT's path")
    image = root / _text(entry, "image", where)
    label = root / _text(entry, "label", where) if entry.get("label") is not None else None
    if label is None and split != "test":
        advice = "Give the case's label, or move it to `test`."
        raise _error("no_label", where, "no key `label`", f"a label map for each case under `{split}`", advice)
    own = _labels(entry["labels"], f"{where}: labels") if entry.get("labels") is not None else labels
    if label is not None and not own:
        expected = '`labels` such as {"0": "background", "1": "pancreas"} in the manifest or the case'
        raise _error("no_labels", where, "a label map whose values have no names", expected)
    case_id = _text(entry, "case_id", where, case_name(image))
    if not case_id or case_id.startswith(".") or set(case_id) & set("/\\\0"):
        expected = "a name without slashes that does not start with a dot"
        raise _error("bad_case_id", where, f"the case_id {case_id!r}", expected, "It names a folder of the output.")
    fold = _fold(entry["fold"], f"{where}: fold") if entry.get("fold") is not None else None
    if scheme is not None and split == "training":
        fold, split = _in_scheme(entry, scheme, where)
    return Case(
        case_id=case_id,
        patient_id=_text(entry, "patient_id", where, case_id),
        image=image,
        label=label,
        labels=own,
        fold=fold,
        split=split,
        image_sha256=_sha256(entry, "image_sha256", where),
        label_sha256=_sha256(entry, "label_sha256", where),
    )


def _text(entry: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = entry.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise _wrong(f"{where}: {key}", value, "text")
    return value


def _labels(value: object, where: str) -> dict[int, str]:
    if not isinstance(value, dict):
        raise _wrong(where, value, 'an object such as {"0": "background", "1": "pancreas"}')
    names: dict[int, str] = {}
    for key, name in value.items():
        if not re.fullmatch(r"[0-9]{1,5}", key) or int(key) > 65535 or int(key) in names:
            raise _wrong(where, key, "each whole number from 0 to 65535 at most once, as key")
        if not isinstance(name, str) or not name.strip():
            raise _wrong(f"{where}: {key}", name, "a name")
        names[int(key)] = name
    return {number: name for number, name in sorted(names.items()) if number != 0}


def _fold(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _wrong(where, value, "a whole number from 0")
    return value


def _in_scheme(entry: Mapping[str, Any], scheme: str, where: str) -> tuple[int | None, str]:
    splits = entry.get("splits") or {}
    if not isinstance(splits, dict):
        raise _wrong(f"{where}: splits", splits, "an object")
    if scheme not in splits:
        found, advice = ", ".join(sorted(splits)) or "none", "Name a scheme that each training case has under `splits`."
        raise _error("no_scheme", where, f"the schemes: {found}", f"`{scheme}` among them", advice)
    value = splits[scheme]
    if isinstance(value, str):
        if value not in SPLITS:
            raise _wrong(f"{where}: splits: {scheme}", value, f"a fold number or one of {', '.join(SPLITS)}")
        return None, value
    return _fold(value, f"{where}: splits: {scheme}"), "training"


def _sha256(entry: Mapping[str, Any], key: str, where: str) -> str | None:
    value = entry.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise _wrong(f"{where}: {key}", value, "a SHA-256 as 64 hexadecimal digits")
    return value.lower()


def _refuse_duplicates(cases: list[Case], path: Path) -> None:
    seen: set[str] = set()
    for case in cases:
        if case.case_id in seen:
            advice = "Remove the repeated entry, or give the cases a `case_id` of their own."
            expected = "each case_id once in all lists together"
            raise _error("duplicate_case", path, f"the case {case.case_id} more than once", expected, advice)
        seen.add(case.case_id)


def _wrong(where: str, value: object, expected: str) -> ManifestError:
    found = repr(value)
    if len(found) > 60:
        found = f"{found[:60]}..."
    return _error("wrong_value", where, found, expected)


def _error(code: str, where: object, found: str, expected: str, advice: str = _README) -> ManifestError:
    return ManifestError(f"manifest.{code}", where=where, found=found, expected=expected, advice=advice)
