"""The frames of a CT series that DICOM output refers to: where they lie, and a mask laid onto them.

DICOM's world is LPS, ours is RAS. Standard: PS3.3, C.7.6.2 (Image Plane Module).
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID

from pancreas_seg._version import __version__
from pancreas_seg.errors import InputError
from pancreas_seg.geometry import Geometry
from pancreas_seg.io.dicom.header import quiet
from pancreas_seg.io.dicom_output.source_images import (
    PER_IMAGE,
    PER_SERIES,
    TOLERANCE_VOXELS,
    check_alike,
    check_complete,
    images_of,
    position_of,
    step_of,
)

TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName",
    "StudyID", "AccessionNumber", "PositionReferenceIndicator",
)  # fmt: skip
"""Attributes of patient and study that must be there, if only empty."""

_OF_IMAGES = (
    "ReferencedFrameNumber", "Modality", "LossyImageCompression", "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)  # fmt: skip
_IF_THERE = (
    "SpecificCharacterSet", "StudyDescription", "IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight",
    "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
    "LongitudinalTemporalInformationModified",
)  # fmt: skip
_MOMENTS = ("Content", "Acquisition", "Series", "Study")
_UNKNOWN_MOMENT = ("19700101", "000000")


@dataclass(frozen=True, eq=False)
class SourceFrames:
    """The images of a CT series, one a slice, in order along the normal of their planes.

    Parameters
    ----------
    headers : tuple of Dataset
        One a frame, with what tells the image and no more: the patient and the study stand in ``study``.
    geometry : Geometry
        Grid of (columns, rows, frames).
    study : Dataset
        Patient, study and frame of reference, for the output; missing type 2 attributes are there, empty.
    moment : tuple of str
        Date (DA) and time (TM) that output carries: those of the first frame's content, else of its acquisition,
        series or study, else 1 January 1970, so that the same input gives the same bytes.
    """

    headers: tuple[Dataset, ...]
    geometry: Geometry
    study: Dataset
    moment: tuple[str, str]

    @classmethod
    @quiet()
    def of(cls, headers: Sequence[Dataset], where: object = "DICOM series") -> SourceFrames:
        """Check the headers of a series and put them in order.

        Parameters
        ----------
        headers : sequence of Dataset
            One for each file of one series, single- or multi-frame, in any order; pixels are not needed.
        where : object
            What errors call the series.

        Raises
        ------
        InputError
            If UIDs or positions are missing or twice there, if images are of several series, planes or sizes, or if
            slices are not evenly spaced at right angles to their planes.
        """
        images = images_of(headers)
        check_complete(images, where)
        check_alike(images, where)
        orientation = np.array(images[0].ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
        normal = np.cross(*orientation)
        ordered = sorted(images, key=lambda image: float(normal @ position_of(image)))
        step = step_of(ordered, normal, where)
        row_mm, column_mm = (float(mm) for mm in ordered[0].PixelSpacing)
        lps = np.eye(4)
        lps[:3, :3] = np.stack([orientation[0] * column_mm, orientation[1] * row_mm, step], axis=1)
        lps[:3, 3] = position_of(ordered[0])
        shape = (int(ordered[0].Columns), int(ordered[0].Rows), len(ordered))
        try:
            geometry = Geometry(shape, np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps)
        except InputError as error:
            raise InputError(
                error.code, where=where, found=error.found, expected=error.expected, advice=error.advice
            ) from error
        slim = tuple(_slim(image, geometry.spacing_mm[2]) for image in ordered)
        return cls(slim, geometry, _study(ordered[0]), _moment(ordered[0]))

    def lay(self, mask: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
        """A mask's voxels on the frames: no resampling, only axes in another order or direction.

        Parameters
        ----------
        mask : (I, J, K) array
        geometry : Geometry
            The mask's grid.

        Returns
        -------
        (frames, rows, columns) array

        Raises
        ------
        InputError
            If the mask's voxels are not exactly those of the series.
        """
        if mask.shape != geometry.shape:
            raise ValueError(f"mask of shape {mask.shape} does not lie on a grid of shape {geometry.shape}")
        axes, signs = self.check_grid(geometry)
        laid = mask.transpose(axes)[tuple(slice(None, None, sign) for sign in signs)]
        return np.ascontiguousarray(laid.transpose(2, 1, 0))

    def check_grid(self, geometry: Geometry) -> tuple[list[int], list[int]]:
        """For columns, rows and frames: the axis of a grid with the same voxels, and +1 or -1 for its direction.

        Raises
        ------
        InputError
            If the voxels are not the same.
        """
        to_frames = np.linalg.inv(self.geometry.affine) @ geometry.affine
        turn = np.rint(to_frames[:3, :3])
        axes: list[int] = np.abs(turn).argmax(axis=1).tolist()
        signs = turn[range(3), axes].astype(int)
        is_turn = sorted(axes) == [0, 1, 2] and np.abs(turn).sum() == 3
        if is_turn and tuple(geometry.shape[axis] for axis in axes) == self.geometry.shape:
            exact = np.eye(4)
            exact[:3, :3] = turn
            exact[:3, 3] = np.where(signs > 0, 0, np.array(self.geometry.shape) - 1)
            corners = np.array([[*bits, 1] for bits in np.ndindex(2, 2, 2)]) * [*(np.array(geometry.shape) - 1), 1]
            if np.abs(corners @ (to_frames - exact).T).max() <= TOLERANCE_VOXELS:
                return axes, signs.tolist()
        raise InputError(
            "input.mask_off_series",
            where="mask",
            found=_described(geometry),
            expected=f"the voxels of the series, {_described(self.geometry)}, with axes in any order and direction",
            advice="Give the series that the mask was made from, or resample the mask to the CT's grid first.",
        )

    def fingerprint(self, laid: NDArray[Any], *facts: object) -> str:
        """SHA-256 of the frames' UIDs, a mask on them, this program's version and further facts."""
        digest = hashlib.sha256(repr((__version__, laid.shape, facts)).encode())
        for header in self.headers:
            digest.update(f"{header.SOPInstanceUID} {header.get('ReferencedFrameNumber', '')}\n".encode())
        for plane in laid:
            digest.update(plane.astype("<u2").tobytes())
        return digest.hexdigest()


def reference_to(header: Dataset) -> Dataset:
    """An item that refers to one of the `SourceFrames`, by its frame number, too, if its file has several."""
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    if "ReferencedFrameNumber" in header:
        item.ReferencedFrameNumber = header.ReferencedFrameNumber
    return item


def uid(fingerprint: str, purpose: str) -> UID:
    """A DICOM UID that follows from a fingerprint: a name-based UUID under 2.25 (PS3.5, B.2)."""
    return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{fingerprint} {purpose}').int}")


def _slim(image: Dataset, spacing_mm: float) -> Dataset:
    image = _with(image, (*PER_IMAGE, *PER_SERIES, *_OF_IMAGES))
    # A mask's voxel is as thick as slices are apart, whatever the thickness that was reconstructed.
    image.SliceThickness = image.SpacingBetweenSlices = round(spacing_mm, 6)
    return image


def _study(header: Dataset) -> Dataset:
    study = _with(header, ("StudyInstanceUID", "FrameOfReferenceUID", *TYPE_2, *_IF_THERE))
    for name in TYPE_2:
        if name not in study:
            setattr(study, name, "")
    if study.PatientSex not in ("M", "F", "O"):
        study.PatientSex = ""
    return study


def _with(header: Dataset, names: Sequence[str]) -> Dataset:
    kept = Dataset()
    for name in names:
        if name in header:
            kept[name] = copy(header[name])  # to set an attribute later would change the header's own element
    return kept


def _moment(header: Dataset) -> tuple[str, str]:
    for name in _MOMENTS:
        date, time = (str(header.get(f"{name}{part}") or "") for part in ("Date", "Time"))
        if len(date) == 8 and date.isdigit():
            return date, time if time.replace(".", "", 1).isdigit() else _UNKNOWN_MOMENT[1]
    return _UNKNOWN_MOMENT


def _described(geometry: Geometry) -> str:
    shape = " x ".join(str(n) for n in geometry.shape)
    spacing = " x ".join(f"{mm:.4g}" for mm in geometry.spacing_mm)
    corner = ", ".join(f"{mm:.2f}" for mm in geometry.affine[:3, 3])
    return f"{shape} voxels of {spacing} mm ({geometry.orientation}, first at {corner} mm in RAS)"
