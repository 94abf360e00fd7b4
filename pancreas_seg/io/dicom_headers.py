"""The headers of a CT series in a folder, without its pixels."""

from __future__ import annotations

from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from pancreas_seg.errors import InputError
from pancreas_seg.io.dicom_images import without_quotes


@without_quotes()
def series_headers(folder: str | Path) -> list[Dataset]:
    """Headers of the one CT series in a folder and the folders in it; other DICOM objects are passed over.

    Raises
    ------
    InputError
        If there is no folder, no CT image in it, or images of several series.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            "input.unreadable",
            where=folder,
            found="no folder at this path",
            expected="a folder with a CT series",
            advice="Check the path.",
        )
    read = (_header(path) for path in sorted(folder.rglob("*")) if path.is_file())
    headers = [header for header in read if header is not None and _is_ct(header)]
    series = {str(header.get("SeriesInstanceUID", "")) for header in headers}
    if len(series) != 1:
        raise InputError(
            "input.dicom_series",
            where=folder,
            found=f"CT images of {len(series)} series" if headers else "no CT image",
            expected="the images of one CT series",
            advice="Give the folder of the series that the mask belongs to.",
        )
    return headers


def _header(path: Path) -> Dataset | None:
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except (InvalidDicomError, OSError, ValueError, EOFError):
        return None


def _is_ct(header: Dataset) -> bool:
    return header.get("Modality") == "CT" and "LOCALIZER" not in (header.get("ImageType") or ())
