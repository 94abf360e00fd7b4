"""Synthetic DICOM series."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
INTERCEPT = -1024


def ct_header(instance: int, series: str = "1.2.3.4") -> Dataset:
    """What every CT image has, with names that must show up nowhere."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"{series}.{instance}"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.Modality = "CT"
    ds.PatientName, ds.PatientID = "Planted^Name", "PLANTED-ID"
    ds.SeriesDescription = "Planted^Name"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.3", series, "1.2.9"
    ds.InstanceNumber = instance
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = INTERCEPT, 1, "HU"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    return ds


def decimal(values: NDArray[np.float64]) -> list[str]:
    """Decimal strings of at most 16 characters, as DICOM has them."""
    return [f"{v:.12g}"[:16] for v in values]


def place(ds: Dataset, affine: NDArray[np.float64], k: int) -> None:
    """Say where slice k of a grid lies, in LPS."""
    axes = RAS_TO_LPS @ affine[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    ds.ImageOrientationPatient = decimal((axes[:, :2] / spacing[:2]).T.ravel())
    ds.ImagePositionPatient = decimal(RAS_TO_LPS @ affine[:3, 3] + k * axes[:, 2])
    ds.PixelSpacing = decimal(spacing[[1, 0]])
    ds.SliceThickness = decimal(spacing[[2]])[0]


def make_slices(hu: NDArray[np.integer], affine: NDArray[np.float64], series: str = "1.2.3.4") -> list[Dataset]:
    """A dataset for each slice of an (I, J, K) array in HU on a RAS affine."""
    slices = []
    for k in range(hu.shape[2]):
        ds = ct_header(k + 1, series)
        place(ds, affine, k)
        ds.Columns, ds.Rows = hu.shape[:2]
        ds.PixelData = (hu[:, :, k].T - INTERCEPT).astype("<u2").tobytes()
        slices.append(ds)
    return slices


def save(slices: list[Dataset], folder: Path, prefix: str = "IM") -> Path:
    """Write datasets as files of a folder; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for n, ds in enumerate(slices):
        ds.save_as(folder / f"{prefix}{n:03d}", enforce_file_format=True)
    return folder


def make_multi_frame(hu: NDArray[np.integer], affine: NDArray[np.float64], order: list[int]) -> Dataset:
    """An enhanced CT of slices in the given order; spacing, orientation and rescale shared."""
    ds = ct_header(1)
    for keyword in ("RescaleIntercept", "RescaleSlope", "RescaleType"):
        del ds[keyword]
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = EnhancedCTImageStorage
    ds.Columns, ds.Rows = hu.shape[:2]
    shared, whole = Dataset(), Dataset()
    place(whole, affine, 0)
    measures, orientation, rescale = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = whole.PixelSpacing, whole.SliceThickness
    orientation.ImageOrientationPatient = whole.ImageOrientationPatient
    rescale.RescaleIntercept, rescale.RescaleSlope, rescale.RescaleType = INTERCEPT, 1, "HU"
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([orientation])
    shared.PixelValueTransformationSequence = Sequence([rescale])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for k in order:
        position, frame = Dataset(), Dataset()
        place(whole, affine, k)
        position.ImagePositionPatient = whole.ImagePositionPatient
        frame.PlanePositionSequence = Sequence([position])
        frames.append(frame)
    ds.PerFrameFunctionalGroupsSequence = Sequence(frames)
    ds.NumberOfFrames = len(order)
    ds.PixelData = b"".join((hu[:, :, k].T - INTERCEPT).astype("<u2").tobytes() for k in order)
    return ds


@pytest.fixture
def slices(oblique_volume) -> list[Dataset]:
    """The six slices, 11 columns by 8 rows, of an oblique volume."""
    return make_slices(*oblique_volume)
