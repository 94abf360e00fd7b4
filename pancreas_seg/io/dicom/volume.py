"""Pixel data of a series to one array in HU."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from pancreas_seg.io.dicom.decoding import Decoder
from pancreas_seg.io.dicom.files import Files
from pancreas_seg.io.dicom.frames import GDCM, RLE, Frame
from pancreas_seg.io.dicom.header import parse, quiet, transfer_syntax, truncated
from pancreas_seg.io.dicom.stack import Stack


def read_volume(found: Stack, files: Files) -> tuple[NDArray[np.int16] | NDArray[np.float32], str]:
    """Decode the frames of a stack; files are read one at a time.

    Returns
    -------
    (columns, rows, slices) int16 or float32 array
        HU; int16 where they are whole numbers that fit, which halves the memory.
    str
        SHA-256 over the SHA-256 of each slice's file and its frame's number, in the order of the slices: the same
        however files are named.

    Raises
    ------
    InputError
        If pixel data are damaged, or a file changed since its header was read.
    """
    columns, rows, n = found.shape
    image: NDArray[Any] = np.empty((n, rows, columns), np.int16)
    places: dict[int, list[tuple[int, Frame]]] = {}
    for k, frame in enumerate(found.frames):
        places.setdefault(frame.file, []).append((k, frame))
    hashes = [b""] * n
    with Decoder() as decoder:
        for file, wanted in places.items():
            content = files.read(file)
            digest = hashlib.sha256(content).digest()
            dataset = parse(content, files.where, files.label(file))
            del content
            planes = _planes(dataset, decoder, {frame.index for _, frame in wanted})
            by_index = {frame.index: (k, frame) for k, frame in wanted}
            try:
                for index, plane in planes:
                    k, frame = by_index.pop(index)
                    hashes[k] = digest + index.to_bytes(4, "little")
                    if image.dtype == np.int16 and not _whole(plane, frame):
                        image = image.astype(np.float32)
                    _to_hu(plane, frame, image[k])
            except Exception as error:  # decoders raise nearly any type on damaged data
                raise truncated(
                    files.where,
                    f"{files.label(file)}, with pixel data that cannot be decoded",
                    "the pixels that its header tells of",
                ) from error
            if by_index:
                raise truncated(files.where, f"{files.label(file)}, with too few frames", "all frames of its header")
    return image.transpose(2, 1, 0), hashlib.sha256(b"".join(hashes)).hexdigest()


def _whole(plane: NDArray[Any], frame: Frame) -> bool:
    """Whether a plane's HU are whole numbers that fit into 16 bits."""
    if frame.slope != 1.0 or not frame.intercept.is_integer() or plane.dtype.kind not in "iu":
        return False
    limits, intercept = np.iinfo(np.int16), int(frame.intercept)
    return limits.min <= int(plane.min()) + intercept and int(plane.max()) + intercept <= limits.max


def _to_hu(plane: NDArray[Any], frame: Frame, out: NDArray[Any]) -> None:
    if plane.shape != out.shape:
        raise ValueError("another matrix than in the header")
    if out.dtype == np.int16:
        np.add(plane, int(frame.intercept), out=out, dtype=np.int64, casting="unsafe")
        return
    out[...] = plane
    if frame.slope != 1.0:
        out *= np.float32(frame.slope)
    if frame.intercept != 0.0:
        out += np.float32(frame.intercept)


def _planes(dataset: Dataset, decoder: Decoder, wanted: set[int]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Index and stored numbers (rows, columns) of the wanted frames."""
    syntax = transfer_syntax(dataset)
    if syntax in GDCM:
        n = int(dataset.get("NumberOfFrames") or 1)
        offsets = dataset.get("ExtendedOffsetTable")
        lengths = dataset.get("ExtendedOffsetTableLengths")
        if int(dataset.BitsStored) != int(dataset.HighBit) + 1:
            # GDCM and `_stored_bits` would both move the bits, and compressed frames have theirs at the low end.
            raise ValueError("bits that compressed frames cannot have")
        with quiet():
            frames = generate_frames(
                dataset.PixelData,
                number_of_frames=n,
                extended_offsets=(offsets, lengths) if offsets and lengths else None,
            )
            for index, frame in enumerate(frames):
                if index in wanted:
                    yield index, _stored_bits(decoder.decode(frame, dataset, syntax), dataset)
        return
    with quiet():
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
        runner = get_decoder(dataset.file_meta.TransferSyntaxUID)
        plugin = "pydicom" if syntax == RLE else ""
        for index in sorted(wanted):
            plane, _ = runner.as_array(dataset, index=index, raw=True, decoding_plugin=plugin)
            yield index, _stored_bits(plane, dataset)


def _stored_bits(plane: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """The numbers in the bits that the header names, sign included; other bits can hold overlays or rubbish."""
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    high, signed = int(dataset.HighBit), int(dataset.get("PixelRepresentation") or 0) == 1
    if not 0 < stored <= high + 1 <= allocated:
        raise ValueError("bits that cannot be")
    kind = np.dtype(f"{'i' if signed else 'u'}{allocated // 8}")
    if plane.dtype.itemsize != kind.itemsize:
        return plane
    plane = plane.astype(plane.dtype.newbyteorder("="), copy=False)
    return (plane.view(f"u{kind.itemsize}") << (allocated - 1 - high)).view(kind) >> (allocated - stored)
