"""Which folders of a tree are a case each."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import pydicom

from pancreas_seg.io.dicom.files import may_be_dicom_name
from pancreas_seg.io.dicom.header import HEAD_BYTES, is_dicom, quiet, text

_STUDY_TAGS = ["StudyInstanceUID", "PatientID"]
_ENOUGH_BYTES = 2**20


def find_studies(folder: Path) -> list[Path]:
    """The folders in a folder, or itself, that hold one DICOM study each, with all folders in them.

    A folder with DICOM files right in it is one. So is one whose folders hold files of a single study, by one file
    from each. Otherwise its folders are looked into one by one.
    """
    studies = _studies(folder)
    return _split(folder, studies) if studies else []


def _split(folder: Path, studies: dict[Path, tuple[str, str]]) -> list[Path]:
    within = {path: study for path, study in studies.items() if path.is_relative_to(folder)}
    if folder in within or len(within) == 1 or (len(set(within.values())) == 1 and next(iter(within.values()))[0]):
        return [folder]
    children = {folder / path.relative_to(folder).parts[0] for path in within}
    return [found for child in sorted(children) for found in _split(child, within)]


def _studies(folder: Path) -> dict[Path, tuple[str, str]]:
    """For each folder with DICOM files right in it: study and patient of the first."""
    found = {}
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith(".") or not may_be_dicom_name(name):
                continue
            study = _study(Path(root, name))
            if study is not None:
                found[Path(root)] = study
                break
    return found


def _study(path: Path) -> tuple[str, str] | None:
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            if not is_dicom(head):
                return None
            content = head + file.read(_ENOUGH_BYTES)
        with quiet():
            dataset = pydicom.dcmread(BytesIO(content), force=True, stop_before_pixels=True, specific_tags=_STUDY_TAGS)
            if text(dataset, "StudyInstanceUID") == "" and "DICOMDIR" in path.name.upper():
                return None
            return text(dataset, "StudyInstanceUID"), text(dataset, "PatientID")
    except Exception:  # pydicom raises nearly any type on damaged files; reading it will say what is wrong
        return "", ""
