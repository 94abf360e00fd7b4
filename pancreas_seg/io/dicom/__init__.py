"""Reading CT series in DICOM: from a folder, a zip, or a multi-frame file.

`files` gives bytes, `header` a Dataset, `frames` the facts of each image, `choice` the one series, `stack` its order
and grid, `volume` its HU.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.errors import InputError
from pancreas_seg.geometry import Geometry
from pancreas_seg.io.dicom.choice import DicomFile, choose, read_headers
from pancreas_seg.io.dicom.files import Files, open_files
from pancreas_seg.io.dicom.frames import Frame
from pancreas_seg.io.dicom.header import HEAD_BYTES, is_dicom, is_enveloped
from pancreas_seg.io.dicom.series import DicomSeries
from pancreas_seg.io.dicom.shear import shear_back
from pancreas_seg.io.dicom.stack import Stack, stack, tilt_refusal
from pancreas_seg.io.dicom.studies import find_studies
from pancreas_seg.io.dicom.volume import read_volume

__all__ = ["DicomSeries", "find_studies", "is_dicom_input", "read_dicom", "read_series"]

log = logging.getLogger(__name__)


def is_dicom_input(path: Path) -> bool:
    """Whether a path is a folder, a zip, or a DICOM file (encrypted ones, too), whatever its name."""
    if path.is_dir() or path.name.lower().endswith(".zip"):
        return True
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False
    return is_dicom(head) or is_enveloped(head)


def read_dicom(
    path: Path, series_uid: str | None = None, allow_tilt: bool = False
) -> tuple[NDArray[np.int16] | NDArray[np.float32], Geometry, DicomSeries, str]:
    """Read the one CT series of a folder, zip or file.

    Parameters
    ----------
    path : Path
    series_uid : str, optional
        SeriesInstanceUID of the one to take.
    allow_tilt : bool
        Whether to shear the slices of a tilted gantry back.

    Returns
    -------
    image : (columns, rows, slices) int16 or float32 array
        HU; int16 where they are whole numbers that fit.
    geometry : Geometry
        Slices go along their normal (the cross product of ImageOrientationPatient's vectors).
    series : DicomSeries
    sha256 : str
        Of the slices' files, in their order.

    Raises
    ------
    InputError
        If there is no such series, or it is no sound volume.
    """
    with open_files(path) as files:
        chosen, found = _found(files, series_uid)
        if found.tilt_deg and not allow_tilt:
            raise tilt_refusal(found.tilt_deg, path)
        geometry = None if found.tilt_deg else _geometry(found, path)
        image, sha256 = read_volume(found, files)
    if geometry is None:
        log.info("slices are stacked %.2f degrees off their normal: sheared back", found.tilt_deg)
        image, geometry = shear_back(image, found)
    return image, geometry, _series(chosen, found), sha256


def read_series(path: Path, series_uid: str | None = None) -> DicomSeries:
    """The headers of the one CT series of a folder, zip or file, in order, without reading its pixels into memory.

    Raises
    ------
    InputError
        If there is no such series, or it is no sound volume. A tilt is no error here.
    """
    with open_files(path) as files:
        return _series(*_found(files, series_uid))


def _found(files: Files, series_uid: str | None) -> tuple[list[DicomFile], Stack]:
    chosen = choose(read_headers(files, series_uid), len(files), files.where, series_uid)

    def label(frame: Frame) -> str:
        instance = "" if frame.instance is None else f" (instance or frame {frame.instance})"
        return files.label(frame.file) + instance

    frames = [frame for file in chosen for frame in file.frames]
    found = stack(frames, files.where, label)
    thickness, spacing = found.frames[0].thickness_mm, float(np.linalg.norm(found.affine[:3, 2]))
    if thickness is not None and abs(thickness - spacing) > 0.05 * spacing:
        log.info("SliceThickness is %.4g mm, but slices lie %.4g mm apart: their positions count", thickness, spacing)
    return chosen, found


def _geometry(found: Stack, where: Path) -> Geometry:
    try:
        return found.geometry
    except InputError as error:
        raise InputError(
            error.code, where=where, found=error.found, expected=error.expected, advice=error.advice
        ) from error


def _series(chosen: Sequence[DicomFile], found: Stack) -> DicomSeries:
    headers = {file.number: file.header for file in chosen}
    places = {file: n for n, file in enumerate(dict.fromkeys(frame.file for frame in found.frames))}
    numbers = [(places[frame.file], frame.index + 1) for frame in found.frames]
    return DicomSeries(found.frames[0].series_uid, [headers[n] for n in places], numbers, found.tilt_deg)
