"""What a DICOM header says of each image in the file: where it lies, how its numbers become HU.

Standard: DICOM PS3.3, C.7.6.2 (image plane), C.7.6.16 (multi-frame functional groups), C.8.2 and C.8.15 (CT).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import parse_fragments

from pancreas_seg.errors import InputError
from pancreas_seg.io.dicom.header import quiet, text, transfer_syntax, truncated, undecodable, values_of

RLE = "1.2.840.10008.1.2.5"
NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")
GDCM = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91))
"""Transfer syntaxes that `decoding` decodes: JPEG baseline, extended and lossless, JPEG-LS, JPEG 2000."""

LARGEST_SIDE = 4096


@dataclass(frozen=True)
class Frame:
    """One image and where it lies.

    Parameters
    ----------
    file, index : int
        Its file, and its place there, from 0.
    instance : int or None
        InstanceNumber (single-frame) or frame number.
    series_uid, frame_of_reference : str
    position_mm : tuple of 3 float
        ImagePositionPatient, LPS.
    orientation : tuple of 6 float
        ImageOrientationPatient: unit vectors along which the columns' and the rows' number grows.
    spacing_mm : tuple of 2 float
        PixelSpacing: between rows, between columns.
    rows, columns : int
    slope, intercept : float
        Stored numbers to HU.
    thickness_mm : float or None
    stored_bytes : float
        Pixel data that the file has for it.
    """

    file: int
    index: int
    instance: int | None
    series_uid: str
    frame_of_reference: str
    position_mm: tuple[float, float, float]
    orientation: tuple[float, float, float, float, float, float]
    spacing_mm: tuple[float, float]
    rows: int
    columns: int
    slope: float
    intercept: float
    thickness_mm: float | None
    stored_bytes: float


def frames_of(dataset: Dataset, file: int, where: object, label: str) -> list[Frame]:
    """The images of a CT file.

    Raises
    ------
    InputError
        If the header does not say what is needed, contradicts itself, or claims more than there is.
    """
    try:
        with quiet():
            stored_bytes = _check_pixels(dataset, where, label)
            if int(dataset.get("NumberOfFrames") or 1) == 1 and "PerFrameFunctionalGroupsSequence" not in dataset:
                return [_frame(_SingleFrame(dataset), file, 0, stored_bytes, where, label)]
            return _frames_of_multi_frame(dataset, file, stored_bytes, where, label)
    except InputError:
        raise
    except Exception as error:  # pydicom decodes values when they are asked for, and raises nearly any type
        raise undecodable(where, label) from error


class _SingleFrame:
    """Attributes of a single-frame image: all at the top."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def group(self, _sequence: str) -> Dataset:
        return self.dataset

    @property
    def instance(self) -> int | None:
        value = text(self.dataset, "InstanceNumber")
        return int(value) if value.lstrip("+-").isdigit() else None


class _OneOfMany(_SingleFrame):
    """Attributes of a frame in a multi-frame image: in the frame's functional groups, or in those that all share."""

    def __init__(self, dataset: Dataset, index: int) -> None:
        super().__init__(dataset)
        shared = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
        self._groups = (dataset.PerFrameFunctionalGroupsSequence[index], shared[0])
        self._index = index

    def group(self, sequence: str) -> Dataset:
        return next((groups[sequence][0] for groups in self._groups if groups.get(sequence)), Dataset())

    @property
    def instance(self) -> int | None:
        return self._index + 1


def _frames_of_multi_frame(dataset: Dataset, file: int, stored_bytes: float, where: object, label: str) -> list[Frame]:
    n = int(dataset.get("NumberOfFrames") or 1)
    described = len(dataset.get("PerFrameFunctionalGroupsSequence") or ())
    if n != described:
        raise InputError(
            "input.no_orientation",
            where=where,
            found=f"{label}, with {n} frames, of which {described} say where they lie",
            expected="a PerFrameFunctionalGroupsSequence with an item for each frame",
            advice="Export the series as enhanced CT, or as one file per slice.",
        )
    return [_frame(_OneOfMany(dataset, i), file, i, stored_bytes / n, where, label) for i in range(n)]


def _frame(source: _SingleFrame, file: int, index: int, stored_bytes: float, where: object, label: str) -> Frame:
    dataset = source.dataset
    if source.instance is not None:
        label = f"{label} (instance or frame {source.instance})"
    measures = source.group("PixelMeasuresSequence")
    place = {
        "ImagePositionPatient": _numbers(source.group("PlanePositionSequence"), "ImagePositionPatient", 3),
        "ImageOrientationPatient": _numbers(source.group("PlaneOrientationSequence"), "ImageOrientationPatient", 6),
        "PixelSpacing": _numbers(measures, "PixelSpacing", 2),
    }
    for keyword, values in place.items():
        if values is None:
            raise _no_place(dataset, keyword, where, label)
    position, orientation, spacing = (tuple(values or ()) for values in place.values())
    if min(spacing) <= 0:
        raise InputError(
            "input.spacing",
            where=where,
            found=f"{label}, with a PixelSpacing of {spacing[0]:g} x {spacing[1]:g} mm",
            expected="numbers above 0",
            advice="Export the series again; its header does not say how large its voxels are.",
        )
    thickness = _numbers(measures, "SliceThickness", 1)
    slope, intercept = _rescale(source.group("PixelValueTransformationSequence"), where, label)
    return Frame(
        file=file,
        index=index,
        instance=source.instance,
        series_uid=text(dataset, "SeriesInstanceUID"),
        frame_of_reference=text(dataset, "FrameOfReferenceUID"),
        position_mm=(position[0], position[1], position[2]),
        orientation=_unit_vectors(orientation, where, label),
        spacing_mm=(spacing[0], spacing[1]),
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        slope=slope,
        intercept=intercept,
        thickness_mm=thickness[0] if thickness and thickness[0] > 0 else None,
        stored_bytes=stored_bytes,
    )


def _check_pixels(dataset: Dataset, where: object, label: str) -> float:
    """Raise InputError unless the pixel data are of a kind that is read, and whole; their number of bytes."""
    pixels = dataset.get("PixelData")
    rows, columns, n = (int(dataset.get(key) or 0) for key in ("Rows", "Columns", "NumberOfFrames"))
    n = n or 1
    if not pixels or min(rows, columns) < 1:
        raise truncated(where, f"{label}, a CT image without pixels", "PixelData, Rows and Columns")
    if max(rows, columns) > LARGEST_SIDE:
        raise InputError(
            "input.too_large",
            where=where,
            found=f"{label}, with a matrix of {rows} x {columns}",
            expected=f"at most {LARGEST_SIDE} x {LARGEST_SIDE}",
            advice="No CT scanner makes such images; export the series again.",
        )
    bits = int(dataset.get("BitsAllocated") or 0)
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or bits not in (8, 16, 32):
        raise InputError(
            "input.not_scalar",
            where=where,
            found=f"{label}, with {dataset.get('SamplesPerPixel')} values of {bits} bits per pixel",
            expected="one number of 8, 16 or 32 bits per pixel (HU)",
            advice="Colour images are no CT; export the original CT.",
        )
    syntax = transfer_syntax(dataset)
    if syntax not in (*NATIVE, RLE, *GDCM):
        raise InputError(
            "input.transfer_syntax",
            where=where,
            found=f"{label}, in a transfer syntax that is not decoded",
            expected="uncompressed, RLE, JPEG, JPEG-LS or JPEG 2000",
            advice="Export the series uncompressed (Explicit VR Little Endian).",
        )
    if syntax in NATIVE:
        need = rows * columns * (bits // 8) * n
        if len(pixels) < need:
            raise truncated(where, f"{label}, with {len(pixels)} bytes of pixels", f"{need}, as its header says")
    else:
        n_fragments = parse_fragments(pixels)[0] - 1  # the first is the table of offsets
        if n_fragments < n:
            raise truncated(where, f"{label}, with {n_fragments} compressed frames", f"{n}, as its header says")
    return float(len(pixels))


def _rescale(group: Dataset, where: object, label: str) -> tuple[float, float]:
    slope, intercept = _numbers(group, "RescaleSlope", 1), _numbers(group, "RescaleIntercept", 1)
    unit = text(group, "RescaleType").upper()
    if slope is None or intercept is None:
        raise InputError(
            "input.no_rescale",
            where=where,
            found=f"{label}, without RescaleSlope or RescaleIntercept",
            expected="both: otherwise it is unknown which HU the stored numbers mean",
            advice="Export the original CT series.",
        )
    if unit not in ("", "HU", "US"):
        raise InputError(
            "input.not_hu",
            where=where,
            found=f"{label}, whose RescaleType is not HU",
            expected="HU",
            advice="Material, density and effective-number maps of dual-energy CT are no CT image; give that.",
        )
    if slope[0] == 0:
        raise InputError(
            "input.scale_invalid",
            where=where,
            found=f"{label}, with a RescaleSlope of 0",
            expected="a number that is not 0",
            advice="Export the series again; its values cannot be turned into HU.",
        )
    return slope[0], intercept[0]


def _no_place(dataset: Dataset, keyword: str, where: object, label: str) -> InputError:
    if "EncryptedAttributesSequence" in dataset:
        return InputError(
            "input.encrypted",
            where=where,
            found=f"{label}, with encrypted attributes and no {keyword}",
            expected=f"a readable {keyword}",
            advice="Decrypt the series, or have it de-identified without removing the geometry.",
        )
    return InputError(
        "input.no_orientation",
        where=where,
        found=f"{label}, without {keyword}",
        expected=f"{keyword}: otherwise it is unknown where the voxels lie",
        advice="Export the original CT series.",
    )


def _unit_vectors(
    orientation: Sequence[float], where: object, label: str
) -> tuple[float, float, float, float, float, float]:
    # Cosines are often written with few digits; what is further off than that is no direction.
    vectors = np.array(orientation).reshape(2, 3)
    lengths = np.linalg.norm(vectors, axis=1)
    if np.abs(lengths - 1).max() > 0.01 or abs(float(vectors[0] @ vectors[1])) > 0.01:
        raise InputError(
            "input.affine_invalid",
            where=where,
            found=f"{label}, with an ImageOrientationPatient of lengths {lengths[0]:.3f} and {lengths[1]:.3f}",
            expected="two unit vectors at a right angle",
            advice="Export the series again; its header does not say where the voxels lie.",
        )
    a, b, c, d, e, f = (vectors / lengths[:, None]).ravel().tolist()
    return a, b, c, d, e, f


def _numbers(dataset: Dataset, keyword: str, n: int) -> list[float] | None:
    """The n numbers of an attribute, or None if it is missing or empty; ValueError if it isn't n finite numbers."""
    values = [float(value) for value in values_of(dataset, keyword)]
    if not values:
        return None
    if len(values) != n or not np.isfinite(values).all():
        raise ValueError(keyword)
    return values
