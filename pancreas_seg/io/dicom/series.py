"""What a DICOM series says of itself beside its voxels."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset


class DicomSeries:
    """The headers of the series that a scan was read from.

    Parameters
    ----------
    uid : str
        SeriesInstanceUID; empty if the files have none.
    headers : sequence of Dataset
        One per file, without pixel data, in the order of the scan's slice axis; one for a multi-frame file.
    frame_numbers : sequence of (int, int)
        For each slice, the place of its header in ``headers`` and its frame number there, from 1.
    tilt_deg : float
        Angle that slices were sheared back by; their voxels are then no longer those of the files. 0 for none.
    """

    def __init__(
        self,
        uid: str,
        headers: Sequence[Dataset],
        frame_numbers: Sequence[tuple[int, int]],
        tilt_deg: float = 0.0,
    ) -> None:
        self.uid = uid
        self.frame_numbers = tuple(frame_numbers)
        self.tilt_deg = tilt_deg
        self._headers = tuple(headers)

    def headers(self) -> list[Dataset]:
        """The headers without pixel data, in the order of the scan's slice axis (several slices for a multi-frame)."""
        return list(self._headers)

    def __repr__(self) -> str:
        return f"DicomSeries({len(self._headers)} files, {len(self.frame_numbers)} slices)"
