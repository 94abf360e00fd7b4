"""What a DICOM file is, by its own word: an image of a CT, one of its localizers, something else.

Standard: DICOM PS3.3, C.7.6.1 (image type), C.8.2 and C.8.15 (CT).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    MediaStorageDirectoryStorage,
)

from pancreas_seg.io.dicom.header import quiet, text, undecodable, values_of

Kind = Literal["image", "derived", "localizer", "secondary capture", "DICOMDIR", "other object"] | str
"""What a file is; ``"MR image"`` and the like for images of other modalities."""

_CT_CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_LOCALIZERS = {"LOCALIZER", "SCOUT", "TOPOGRAM"}
_CAPTURES = {"SCREEN SAVE", "SCREENSHOT", "DOSE_INFO", "DOSE INFO"}
_MODALITIES = {"MR", "PT", "NM", "US", "XA", "CR", "DX", "MG", "RF", "OT", "SC", "ES", "XC", "SM", "OP", "IVUS", "ECG"}


@dataclass(frozen=True)
class About:
    """What a DICOM file is and what it belongs to. Patients are to be compared, never shown."""

    kind: Kind
    series_uid: str
    patient_id: str
    patient_name: str
    from_primary: bool


def about(dataset: Dataset, where: object, label: str) -> About:
    """What a file says of itself.

    Raises
    ------
    InputError
        If that cannot be decoded.
    """
    try:
        with quiet():
            kinds = [str(value).strip().upper() for value in values_of(dataset, "ImageType")]
            return About(
                kind=_kind_of(dataset, kinds),
                series_uid=text(dataset, "SeriesInstanceUID"),
                patient_id=text(dataset, "PatientID"),
                patient_name=text(dataset, "PatientName"),
                from_primary=kinds[1:2] == ["PRIMARY"],
            )
    except Exception as error:  # pydicom decodes values when they are asked for, and raises nearly any type
        raise undecodable(where, label) from error


def _kind_of(dataset: Dataset, kinds: list[str]) -> Kind:
    meta = getattr(dataset, "file_meta", None) or {}
    sop_class = text(dataset, "SOPClassUID") or str(meta.get("MediaStorageSOPClassUID", "") or "")
    modality = text(dataset, "Modality").upper()
    if sop_class == MediaStorageDirectoryStorage or "DirectoryRecordSequence" in dataset:
        return "DICOMDIR"
    if sop_class.startswith(_SECONDARY_CAPTURE) or set(kinds) & _CAPTURES:
        return "secondary capture"
    if modality != "CT" and not (modality not in _MODALITIES and sop_class in _CT_CLASSES):
        has_pixels = "PixelData" in dataset
        return f"{modality if modality in _MODALITIES else 'other'} image" if has_pixels else "other object"
    if sop_class and sop_class not in _CT_CLASSES and not _is_damaged(sop_class):
        return "other object"
    if set(kinds) & _LOCALIZERS:
        return "localizer"
    if kinds[:1] == ["DERIVED"] or kinds[1:2] == ["SECONDARY"]:
        return "derived"
    return "image"


def _is_damaged(sop_class: str) -> bool:
    """Whether a class is neither one of DICOM's nor a maker's own: the file may be a slice, not to be left out."""
    uid = UID(sop_class)
    return not uid.is_valid or (uid.startswith("1.2.840.10008.") and uid.name == uid)
