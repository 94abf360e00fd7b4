"""The images that a CT's DICOM headers tell of, and whether these are one evenly spaced series.

Standard: PS3.3, C.7.6.2 (Image Plane Module), C.7.6.16 (Multi-frame Functional Groups Module).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from pancreas_seg.errors import InputError

TOLERANCE_VOXELS = 0.1
"""How far a slice may lie from even spacing, and a corner of a mask from that of the series, in voxels."""

PER_IMAGE = ("SOPClassUID", "SOPInstanceUID", "ImagePositionPatient")
PER_SERIES = (
    "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "ImageOrientationPatient", "PixelSpacing", "Rows",
    "Columns",
)  # fmt: skip

_IN_GROUP = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
}


def images_of(headers: Sequence[Dataset]) -> list[Dataset]:
    """A header for each image: those of multi-frame files get one a frame, with its number in ReferencedFrameNumber."""
    images = []
    for header in headers:
        per_frame = _value(header, "PerFrameFunctionalGroupsSequence")
        if not per_frame:
            images.append(header)
            continue
        shared = (_value(header, "SharedFunctionalGroupsSequence") or [Dataset()])[0]
        for number, groups in enumerate(per_frame, start=1):
            image = Dataset()
            image.update({element.tag: element for element in header if not element.keyword.endswith("GroupsSequence")})
            image.ReferencedFrameNumber = number
            for name, group in _IN_GROUP.items():
                items = _value(groups, group) or _value(shared, group)
                if items and name in items[0]:
                    image[name] = items[0][name]
            images.append(image)
    return images


def check_complete(headers: Sequence[Dataset], where: object) -> None:
    """Raise an InputError that lists what DICOM output needs of images and they lack, or if an image is there twice."""
    if not headers:
        raise _refusal("input.dicom_incomplete", where, "no images", "the images of a CT series", "Check the folder.")
    n = len(headers)
    absent = {name: sum(not _filled(header, name) for header in headers) for name in (*PER_IMAGE, *PER_SERIES)}
    if any(absent.values()):
        listed = ", ".join(f"{name} ({count} of {n})" for name, count in absent.items() if count)
        raise _refusal(
            "input.dicom_incomplete",
            where,
            f"images without {listed}",
            "all of them, since DICOM output refers to the CT by these",
            "Export the series again without removing them; the NIfTI mask needs none of them.",
        )
    instances = {(str(header.SOPInstanceUID), header.get("ReferencedFrameNumber")) for header in headers}
    if len(instances) < n:
        raise _refusal(
            "input.dicom_duplicate",
            where,
            f"{n} images with {len(instances)} different SOPInstanceUIDs",
            "each image once",
            "Remove the copies.",
        )


def check_alike(headers: Sequence[Dataset], where: object) -> None:
    """Raise an InputError if images are of several series, planes or sizes."""
    first = headers[0]
    for name in PER_SERIES:
        if name in ("ImageOrientationPatient", "PixelSpacing"):
            values = np.array([[float(v) for v in header[name].value] for header in headers])
            differs = np.abs(values - values[0]).max() > 1e-4
        else:
            differs = any(header[name].value != first[name].value for header in headers)
        if differs:
            raise _refusal(
                "input.dicom_mixed",
                where,
                f"images whose {name} differs",
                "images of one series, of one size, spacing and orientation",
                "Give one series alone.",
            )


def step_of(ordered: Sequence[Dataset], normal: NDArray[np.float64], where: object) -> NDArray[np.float64]:
    """Vector from a slice to the next, after a check that it is the same for all."""
    first = ordered[0]
    if len(ordered) == 1:
        thickness = float(_value(first, "SpacingBetweenSlices") or _value(first, "SliceThickness") or 0)
        if not thickness > 0:
            raise _refusal(
                "input.dicom_incomplete",
                where,
                "a single image without SliceThickness",
                "a slice's thickness",
                "Give the whole series.",
            )
        return normal * thickness
    positions = np.array([position_of(header) for header in ordered])
    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    length = float(np.linalg.norm(step))
    gaps = np.diff(positions @ normal)
    off = np.linalg.norm(positions - (positions[0] + np.arange(len(ordered))[:, None] * step), axis=1).max()
    if not off <= TOLERANCE_VOXELS * length or gaps.min() <= 0:
        raise _refusal(
            "input.dicom_spacing",
            where,
            f"slices {gaps.min():.3f} to {gaps.max():.3f} mm apart",
            "even spacing and each position once",
            "A slice is missing or twice there: export the series again.",
        )
    return step


def position_of(header: Dataset) -> NDArray[np.float64]:
    """Centre of an image's first pixel in LPS millimetres, shape (3,)."""
    return np.array(header.ImagePositionPatient, dtype=np.float64)


def _filled(header: Dataset, name: str) -> bool:
    value = _value(header, name)
    size = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}.get(name)
    if size is None:
        return bool(value)
    if value is None or isinstance(value, str) or np.size(value) != size:
        return False
    return bool(np.isfinite(np.array(value, dtype=np.float64)).all())


def _value(header: Dataset, name: str) -> Any:
    """An attribute's value, or None if it is missing or cannot be decoded."""
    try:
        return header.get(name)
    except (ValueError, TypeError, OverflowError):
        return None


def _refusal(code: str, where: object, found: str, expected: str, advice: str) -> InputError:
    return InputError(code, where=where, found=found, expected=expected, advice=advice)
