"""A CT series as a scanner would write it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

STUDY, SERIES, FRAME_OF_REFERENCE = "1.2.3.4", "1.2.3.4.5", "1.2.3.4.6"

WriteSeries = Callable[..., Path]


def _image(frame: NDArray[np.int16], affine: NDArray[np.float64], k: int, thickness: float) -> Dataset:
    """One slice: the array's first axis runs along columns' index, the second along rows', in DICOM's LPS.

    Its thickness is in distances between slices.
    """
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    column_mm, row_mm, slice_mm = np.linalg.norm(lps[:3, :3], axis=0)
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = CTImageStorage
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{SERIES}.{k + 1}"
    image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = STUDY, SERIES, FRAME_OF_REFERENCE
    image.SpecificCharacterSet = "ISO_IR 192"
    image.PatientName, image.PatientID = "Müller^Zoë", "P1"
    image.PatientBirthDate, image.PatientSex = "19500101", "F"
    image.StudyDate, image.StudyTime, image.StudyID, image.AccessionNumber = "20200102", "030405", "S1", "A1"
    image.ContentDate, image.ContentTime = "20200102", "030506.5"
    image.ReferringPhysicianName = image.PositionReferenceIndicator = ""
    image.Manufacturer, image.Modality, image.SeriesNumber, image.InstanceNumber = "none", "CT", 3, k + 1
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.KVP, image.AcquisitionNumber, image.SliceThickness = 120, 1, round(thickness * float(slice_mm), 3)
    image.ImageOrientationPatient = [f"{v:.12f}" for v in (*(lps[:3, 0] / column_mm), *(lps[:3, 1] / row_mm))]
    image.ImagePositionPatient = [f"{v:.8f}" for v in (lps @ [0, 0, k, 1])[:3]]
    image.PixelSpacing = [f"{row_mm:.10f}", f"{column_mm:.10f}"]
    image.Columns, image.Rows = frame.shape
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 1
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
    image.RescaleIntercept, image.RescaleSlope, image.RescaleType = 0, 1, "HU"
    image.PixelData = frame.T.astype("<i2").tobytes()
    return image


@pytest.fixture
def write_series() -> WriteSeries:
    """Write an (I, J, K) array with its RAS affine as K images; the folder. File names follow ``order``, not place."""

    def write(
        folder: Path,
        array: NDArray[np.int16],
        affine: NDArray[np.float64],
        order: Sequence[int] | None = None,
        change: Callable[[int, Dataset], object] = lambda k, image: None,
    ) -> Path:
        folder.mkdir(parents=True)
        names = np.random.default_rng(3).permutation(array.shape[2]) if order is None else order
        for k, name in enumerate(names):
            image = _image(array[:, :, k], affine, k, thickness=2 if len(names) > 1 else 1)
            change(k, image)
            image.save_as(folder / f"IM{name:04d}", enforce_file_format=True)
        return folder

    return write
