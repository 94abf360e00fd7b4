"""Which of the CT images in a folder make the one series to read."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from pancreas_seg.errors import InputError
from pancreas_seg.io.dicom.files import Files, may_be_dicom_name
from pancreas_seg.io.dicom.frames import Frame, frames_of
from pancreas_seg.io.dicom.header import HEAD_BYTES, is_dicom, is_enveloped, parse, truncated
from pancreas_seg.io.dicom.kinds import About, Kind, about
from pancreas_seg.io.dicom.stack import distinct_positions, typical_step_mm

_FEWEST_SLICES = 4
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class DicomFile:
    """A DICOM file without its pixel data, and the images that it holds (none but for CT)."""

    number: int
    about: About
    header: Dataset
    frames: list[Frame]


def read_headers(files: Files, series_uid: str | None) -> list[DicomFile]:
    """All DICOM files, one after the other; CT images of other series than the one asked for are not looked into.

    Raises
    ------
    InputError
        If a DICOM file, or one whose name says that it is one, is damaged or encrypted.
    """
    found = []
    for n in range(len(files)):
        if not may_be_dicom_name(files.name(n)):
            continue
        head = files.head(n, HEAD_BYTES)
        if not is_dicom(head):
            _check_not_damaged(head, files, n)
            continue
        try:
            dataset = parse(files.read(n), files.where, files.label(n))
        except InputError as error:
            if error.code == "input.truncated" and head[128:132] != b"DICM" and not _says_dicom(files.name(n)):
                continue  # it only began like DICOM
            raise
        facts, frames = about(dataset, files.where, files.label(n)), list[Frame]()
        wanted = series_uid is None or facts.series_uid == series_uid
        if wanted and facts.kind in ("image", "derived"):
            frames = frames_of(dataset, n, files.where, files.label(n))
        for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
            if keyword in dataset:
                del dataset[keyword]
        found.append(DicomFile(n, facts, dataset, frames))
    return found


def choose(found: Sequence[DicomFile], n_files: int, where: Path, series_uid: str | None) -> list[DicomFile]:
    """The files of the one CT series; says in the log what is left out.

    Localizers, secondary captures and objects that are no CT image are left out. So are derived images, unless their
    series is asked for, or there is nothing else and they are DERIVED\\PRIMARY, as after lossy compression. Of several
    series, those with images at fewer than 4 places (bolus tracking) don't count.

    Raises
    ------
    InputError
        If there is no such series, or more than one, or images of several patients.
    """
    images = [file for file in found if file.about.kind == "image"]
    derived = [file for file in found if file.about.kind == "derived"]
    if not images and not derived:
        raise _no_ct(found, n_files, where)
    left_out = Counter(file.about.kind for file in found if file.about.kind not in ("image", "derived"))
    if series_uid is not None:
        chosen = [file for file in (*images, *derived) if file.about.series_uid == series_uid]
        if not chosen:
            raise _no_such_series(len({file.about.series_uid for file in (*images, *derived)}), where)
        chosen.sort(key=lambda file: file.number)
        _check_one_patient(chosen, where)
    else:
        chosen = images
        if images:
            left_out["derived"] = len(derived)
        else:
            chosen = _derived_alone(derived, where)
        _check_one_patient(chosen, where)
        chosen = _one_series(chosen, where)
    _say_left_out(left_out, n_files)
    return chosen


def series_list(files: Sequence[DicomFile]) -> dict[str, list[DicomFile]]:
    """Files by SeriesInstanceUID, in the order in which each series first appears."""
    groups: dict[str, list[DicomFile]] = {}
    for file in files:
        groups.setdefault(file.about.series_uid, []).append(file)
    return groups


def _one_series(files: Sequence[DicomFile], where: Path) -> list[DicomFile]:
    groups = series_list(files)
    fit = {uid: group for uid, group in groups.items() if len(groups) == 1 or _is_volume(group)}
    if len(fit) == 1:
        if len(groups) > 1:
            count = sum(len(group) for group in groups.values()) - len(next(iter(fit.values())))
            log.info("left out: %d images of %d other series that are no volume", count, len(groups) - 1)
        return next(iter(fit.values()))
    listed = "; ".join(_describe(uid, group) for uid, group in sorted((fit or groups).items()))
    raise InputError(
        "input.several_series",
        where=where,
        found=f"{len(fit or groups)} CT series: {listed}",
        expected="one",
        advice="Say which one with --series UID (`export`: --series-uid UID), or give its folder.",
    )


def _frames(files: Sequence[DicomFile]) -> list[Frame]:
    return [frame for file in files for frame in file.frames]


def _is_volume(files: Sequence[DicomFile]) -> bool:
    return distinct_positions(_frames(files)) >= _FEWEST_SLICES


def _describe(uid: str, files: Sequence[DicomFile]) -> str:
    # Never SeriesDescription or a file's name: people write names into both.
    frames = _frames(files)
    rows, columns = frames[0].rows, frames[0].columns
    row_mm, column_mm = frames[0].spacing_mm
    return (
        f"{uid or '(no UID)'} ({len(frames)} slices, {columns} x {rows}, "
        f"{column_mm:.4g} x {row_mm:.4g} x {typical_step_mm(frames):.4g} mm)"
    )


def _derived_alone(derived: list[DicomFile], where: Path) -> list[DicomFile]:
    primary = [file for file in derived if file.about.from_primary]
    if not primary:
        uids = ", ".join(sorted({file.about.series_uid or "(no UID)" for file in derived}))
        raise InputError(
            "input.derived_only",
            where=where,
            found=f"{len(derived)} CT images, all of them derived from others (ImageType): series {uids}",
            expected="images as the scanner reconstructed them",
            advice="Give the original series, or say --series UID (`export`: --series-uid UID) if this is the one.",
        )
    log.warning("no original CT images: taking %d that are derived from primary ones", len(primary))
    return primary


def _check_one_patient(files: Sequence[DicomFile], where: Path) -> None:
    by_id = {file.about.patient_id for file in files} - {""}
    by_name = {file.about.patient_name for file in files} - {""}
    n = len(by_id) or len(by_name)
    if n > 1:
        raise InputError(
            "input.several_patients",
            where=where,
            found=f"CT images of {n} patients",
            expected="one",
            advice="Give each patient's folder by itself.",
        )


def _no_ct(found: Sequence[DicomFile], n_files: int, where: Path) -> InputError:
    if found:
        kinds = _counted(Counter(file.about.kind for file in found))
        return InputError(
            "input.not_ct",
            where=where,
            found=f"no CT image among {len(found)} DICOM files ({kinds})",
            expected="a CT series",
            advice="Give the folder of the CT series; other modalities and screenshots cannot be segmented.",
        )
    return InputError(
        "input.no_dicom",
        where=where,
        found="no files" if n_files == 0 else f"no DICOM file among {n_files}",
        expected="the files of a CT series",
        advice="Give the folder or zip of the series.",
    )


def _no_such_series(n: int, where: Path) -> InputError:
    return InputError(
        "input.no_such_series",
        where=where,
        found=f"{n} CT series, none with the UID that was given",
        expected="a SeriesInstanceUID of this input",
        advice="Leave the UID out: if there are several, they are listed with their UIDs.",
    )


def _check_not_damaged(head: bytes, files: Files, n: int) -> None:
    if is_enveloped(head):
        raise InputError(
            "input.encrypted",
            where=files.where,
            found=f"{files.label(n)}, in an encrypted envelope (CMS)",
            expected="plain DICOM",
            advice="Decrypt the files first.",
        )
    if _says_dicom(files.name(n)):
        raise truncated(files.where, f"{files.label(n)}, {files.size(n)} bytes that are no DICOM", "DICOM")


def _says_dicom(name: str) -> bool:
    return name.lower().endswith(_DICOM_SUFFIXES)


def _say_left_out(left_out: Counter[Kind], n_files: int) -> None:
    if any(left_out.values()):
        log.info("left out of %d files: %s", n_files, _counted(left_out))


def _counted(kinds: Counter[Kind]) -> str:
    return ", ".join(f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in sorted(kinds.items()) if n)
