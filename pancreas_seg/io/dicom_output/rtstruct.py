"""A mask as a DICOM RT Structure Set: closed planar contours on the frames of the CT series it belongs to.

Standard: PS3.3, A.19 (RT Structure Set IOD).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ImplicitVRLittleEndian, RTStructureSetStorage

from pancreas_seg._version import __version__
from pancreas_seg.geometry import Geometry
from pancreas_seg.io.atomic import replacing
from pancreas_seg.io.dicom.header import quiet
from pancreas_seg.io.dicom_output.contours import outlines
from pancreas_seg.io.dicom_output.source_frames import SourceFrames, reference_to, uid
from pancreas_seg.io.dicom_output.structures import ABNORMAL, Maker, check_named, code_item, structure_of

SERIES_NUMBER = 9002
_NOTE = "Research software; not for diagnosis or treatment"
_STUDY = UID("1.2.840.10008.3.1.2.3.1")
"""Detached Study Management: retired, and still what planning systems expect here."""


@quiet()
def write_rtstruct(
    path: str | Path,
    mask: NDArray[Any],
    geometry: Geometry,
    headers: Sequence[Dataset],
    names: Mapping[int, str],
    *,
    made: Maker = "automatic",
    weights_sha256: str = "",
) -> Path:
    """Write a mask as an RT Structure Set with one ROI a label.

    Contours enclose the centres of the mask's pixels, with holes as keyholes (`contours.outlines`). A label without
    voxels is an ROI without contours. As with `write_dicom_seg`, the same input gives the same bytes. It is written in
    Implicit VR, where a contour may have more than about 1,500 points.

    Parameters
    ----------
    path, mask, geometry, headers, names, made, weights_sha256
        As for `write_dicom_seg`.

    Raises
    ------
    InputError
        As `write_dicom_seg` does; highdicom is not needed.
    """
    frames = SourceFrames.of(headers)
    laid = frames.lay(mask, geometry)
    named = check_named(laid, names)
    fingerprint = frames.fingerprint(laid, "RTSTRUCT", named, made, weights_sha256)
    structures = _structure_set(frames, fingerprint)
    structures.StructureSetROISequence = []
    structures.ROIContourSequence = []
    structures.RTROIObservationsSequence = []
    weights = f" weights {weights_sha256[:12]}" if weights_sha256 else ""
    for number, (value, name) in enumerate(named.items(), start=1):
        roi = _roi(number, name, frames, made)
        roi.ROIGenerationDescription = f"pancreas-seg {__version__}{weights}; research only"
        structures.StructureSetROISequence.append(roi)
        structures.ROIContourSequence.append(_contours(number, name, frames, laid == value))
        structures.RTROIObservationsSequence.append(_observation(number, name))
    with replacing(Path(path)) as temporary:
        structures.save_as(temporary, enforce_file_format=True)
    return Path(path)


def _structure_set(frames: SourceFrames, fingerprint: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RTStructureSetStorage
    meta.MediaStorageSOPInstanceUID = uid(fingerprint, "instance")
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    out = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    out.update(frames.study)
    out.SOPClassUID = meta.MediaStorageSOPClassUID
    out.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    out.Modality = "RTSTRUCT"
    out.SeriesInstanceUID = uid(fingerprint, "series")
    out.SeriesNumber = SERIES_NUMBER
    out.SeriesDescription = f"pancreas-seg {__version__}, research only"
    out.InstanceNumber = 1
    out.OperatorsName = ""
    out.Manufacturer = out.ManufacturerModelName = "pancreas-seg"
    out.SoftwareVersions = __version__
    out.StructureSetLabel = "pancreas-seg"
    out.StructureSetDescription = _NOTE
    out.StructureSetDate, out.StructureSetTime = frames.moment
    out.ApprovalStatus = "UNAPPROVED"
    out.ReferencedFrameOfReferenceSequence = [_frame_of_reference(frames)]
    return out


def _frame_of_reference(frames: SourceFrames) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = frames.headers[0].SeriesInstanceUID
    series.ContourImageSequence = [reference_to(header) for header in frames.headers]
    study = Dataset()
    study.ReferencedSOPClassUID = _STUDY
    study.ReferencedSOPInstanceUID = frames.study.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    item = Dataset()
    item.FrameOfReferenceUID = frames.study.FrameOfReferenceUID
    item.RTReferencedStudySequence = [study]
    return item


def _roi(number: int, name: str, frames: SourceFrames, made: Maker) -> Dataset:
    roi = Dataset()
    roi.ROINumber = number
    roi.ReferencedFrameOfReferenceUID = frames.study.FrameOfReferenceUID
    roi.ROIName = name
    roi.ROIGenerationAlgorithm = made.upper()
    return roi


def _contours(number: int, name: str, frames: SourceFrames, laid: NDArray[np.bool_]) -> Dataset:
    item = Dataset()
    item.ROIDisplayColor = list(structure_of(name).rgb)
    item.ReferencedROINumber = number
    contours = [
        _contour(n, header, points_mm) for n, (header, points_mm) in enumerate(_polygons(frames, laid), start=1)
    ]
    if contours:
        item.ContourSequence = contours
    return item


def _polygons(frames: SourceFrames, laid: NDArray[np.bool_]) -> Iterator[tuple[Dataset, NDArray[np.float64]]]:
    for header, plane in zip(frames.headers, laid, strict=True):
        rows_mm, columns_mm = (float(mm) for mm in header.PixelSpacing)
        axes = np.array(header.ImageOrientationPatient, dtype=np.float64).reshape(2, 3) * [[columns_mm], [rows_mm]]
        corner = np.array(header.ImagePositionPatient, dtype=np.float64)
        for polygon in outlines(plane):
            yield header, polygon @ axes + corner


def _contour(number: int, header: Dataset, points_mm: NDArray[np.float64]) -> Dataset:
    contour = Dataset()
    contour.ContourImageSequence = [reference_to(header)]
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(points_mm)
    contour.ContourNumber = number
    contour.ContourData = [f"{mm:.4f}" for mm in points_mm.ravel() + 0.0]
    return contour


def _observation(number: int, name: str) -> Dataset:
    structure = structure_of(name)
    item = Dataset()
    item.ObservationNumber = number
    item.ReferencedROINumber = number
    item.RTROIIdentificationCodeSequence = [code_item(structure.kind)]
    item.RTROIInterpretedType = "" if structure.category == ABNORMAL else "ORGAN"
    item.ROIInterpreter = ""
    return item
