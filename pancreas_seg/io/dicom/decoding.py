"""JPEG, JPEG-LS and JPEG 2000 frames, decoded by GDCM (in SimpleITK) in a process of its own.

Decoders in C crash, hang or take all memory on damaged streams. There they end a helper, not the run.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, CTImageStorage

from pancreas_seg.io.dicom.header import quiet

_PATIENCE_S = 60.0
_SCRIPT = Path(__file__).with_name("decoding_process.py")
_JPEG_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_PIXEL_ATTRIBUTES = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")


class Decoder:
    """Decodes frames in a helper process, which starts with the first."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        if self._folder is not None:
            self._folder.cleanup()

    def decode(self, frame: bytes, dataset: Dataset, syntax: str) -> NDArray[Any]:
        """The stored numbers of a compressed frame, (rows, columns).

        Raises
        ------
        ValueError
            If it is damaged, incomplete or of another size than the header says.
        """
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        if frame_size(frame) != (rows, columns):
            raise ValueError("another size than in the header")
        if not frame.rstrip(b"\0").endswith(b"\xff\xd9"):
            raise ValueError("no end of image")
        answer = self._ask(_one_frame_file(frame, dataset, syntax))
        if len(answer) < 8:
            raise ValueError("not decoded")
        array = np.frombuffer(answer, np.dtype(answer[:8].decode().strip()), offset=8)
        if array.size != rows * columns or array.dtype.kind not in "iu":
            raise ValueError("decoded to something else")
        return array.reshape(rows, columns)

    def _ask(self, request: bytes) -> bytes:
        process = self._started()
        if process.stdin is None or process.stdout is None:
            raise ValueError("no pipes")
        timer = threading.Timer(_PATIENCE_S, process.kill)
        timer.start()
        try:
            process.stdin.write(len(request).to_bytes(8, "little") + request)
            process.stdin.flush()
            return process.stdout.read(int.from_bytes(process.stdout.read(8), "little"))
        except OSError as error:
            raise ValueError("the decoder died") from error
        finally:
            timer.cancel()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._folder = tempfile.TemporaryDirectory()
            # -P: the script's folder is no place to import from.
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", str(_SCRIPT), self._folder.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._process


def frame_size(frame: bytes) -> tuple[int, int] | None:
    """Rows and columns that a JPEG, JPEG-LS or JPEG 2000 codestream of one component says it has."""
    with suppress(IndexError):
        at = frame.find(b"\xff\x4f\xff\x51", 0, 512)
        if at >= 0:
            x1, y1, x0, y0 = np.frombuffer(frame, ">u4", 4, at + 8).tolist() if len(frame) > at + 42 else (0, 0, 0, 0)
            return (y1 - y0, x1 - x0) if frame[at + 40 : at + 42] == b"\0\1" else None
        at = 2 if frame[:2] == b"\xff\xd8" else len(frame)
        while frame[at] == 0xFF:
            kind = frame[at + 1]
            if kind in _JPEG_FRAME_HEADERS:
                rows, columns = (int.from_bytes(frame[at + o : at + o + 2], "big") for o in (5, 7))
                return (rows, columns) if frame[at + 9] == 1 else None
            at += 1 if kind == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None


def _one_frame_file(frame: bytes, dataset: Dataset, syntax: str) -> bytes:
    """A DICOM file with nothing in it but the frame and how its pixels are stored."""
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = UID(syntax)
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = CTImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = UID("1.2.3")
    file.SamplesPerPixel = 1
    file.PhotometricInterpretation = "MONOCHROME2"
    for keyword in _PIXEL_ATTRIBUTES:
        setattr(file, keyword, int(dataset[keyword].value))
    file.PixelData = encapsulate([frame])
    file["PixelData"].VR = "OB"
    with quiet(), BytesIO() as buffer:
        file.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()
