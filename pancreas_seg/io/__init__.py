"""Reading CTs and label maps, and writing masks on the very same grid. No torch here.

NIfTI goes through nibabel, NRRD and MHA through SimpleITK, DICOM through pydicom.
"""

from pancreas_seg.io.atomic import check_writable, remove_unfinished, replacing
from pancreas_seg.io.dicom import DicomSeries, find_studies, read_series
from pancreas_seg.io.limits import MemoryLimit, at_most
from pancreas_seg.io.reading import IMAGE_SUFFIXES, Mask, Scan, case_name, read_ct, read_mask, sha256_of
from pancreas_seg.io.writing import write_image, write_mask

__all__ = [
    "IMAGE_SUFFIXES",
    "DicomSeries",
    "Mask",
    "MemoryLimit",
    "Scan",
    "at_most",
    "case_name",
    "check_writable",
    "find_studies",
    "read_ct",
    "read_mask",
    "read_series",
    "remove_unfinished",
    "replacing",
    "sha256_of",
    "write_image",
    "write_mask",
]
