"""Bytes of a DICOM file to a pydicom Dataset.

Standard: DICOM PS3.5 (encoding), PS3.10 (files). Values can name a patient, so no message quotes one, and pydicom's own
warnings, which do, are silenced.
"""

from __future__ import annotations

import logging
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any, BinaryIO, cast

from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pancreas_seg.errors import InputError

HEAD_BYTES = 132
"""How much of a file `is_dicom` wants to see: 128 bytes of preamble and the prefix."""

_DEFLATED = b"1.2.840.10008.1.2.1.99"
_LARGEST_INFLATED_BYTES = 2**30
_LARGEST_HEADER_BYTES = 2**25
_MOST_ELEMENTS = 50_000
_PIXEL_DATA = 0x7FE00010
_UNDEFINED = 0xFFFFFFFF
_ENVELOPED_DATA = bytes.fromhex("06092a864886f70d010703")
_LONG_VALUES = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "UC", "UN", "UR", "UT"}
_VALUE_TYPES = {
    "AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL", "SS", "ST", "SV", "TM",
    "UI", "UL", "US", "UV", *_LONG_VALUES,
}  # fmt: skip


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom from warning, as it quotes values."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins so is DICOM, with or without the 128 bytes of preamble and the prefix "DICM"."""
    if head[128:132] == b"DICM":
        return True
    group, element = head[0:2], int.from_bytes(head[2:4], "little")
    if len(head) < HEAD_BYTES or group not in (b"\x02\x00", b"\x08\x00") or element > 0x20:
        return False
    value_type = head[4:6].decode("latin-1")
    length = int.from_bytes(head[4:8], "little")
    return value_type in _VALUE_TYPES or (length <= 64 and length % 2 == 0)


def is_enveloped(head: bytes) -> bool:
    """Whether a file is CMS enveloped data, as secure DICOM media (PS3.15) are encrypted."""
    return head[:1] == b"\x30" and _ENVELOPED_DATA in head[:32]


def parse(content: bytes, where: object, label: str) -> Dataset:
    """Decode a file, pixel data as they are stored.

    Parameters
    ----------
    content : bytes
        The whole file.
    where : object
        The input at fault, for errors.
    label : str
        Which of its files this is, for errors.

    Raises
    ------
    InputError
        If the file is damaged or cut short.
    """
    try:
        with quiet():
            _check_inflated_size(content)
            if content.find(b"\xe0\x7f\x10\x00", 0, _LARGEST_HEADER_BYTES) < 0 and len(content) > _LARGEST_HEADER_BYTES:
                raise ValueError("no pixel data where they should be")
            buffer = BytesIO(content)
            dataset = read_partial(cast(BinaryIO, buffer), stop_when=_order_check(buffer), force=True)
            if not dataset:
                raise ValueError("no element")
    except Exception as error:  # pydicom raises nearly any type on damaged files
        raise truncated(where, f"{label}, DICOM that ends early or cannot be decoded", "complete files") from error
    return dataset


def transfer_syntax(dataset: Dataset) -> str:
    """The transfer syntax UID; where a file has none, what its first elements look like."""
    stated = str(getattr(dataset, "file_meta", {}).get("TransferSyntaxUID", "") or "")
    if stated:
        return stated
    return str(ImplicitVRLittleEndian if dataset.original_encoding[0] else ExplicitVRLittleEndian)


def truncated(where: object, found: str, expected: str) -> InputError:
    """The refusal of a file that is not whole."""
    return InputError(
        "input.truncated", where=where, found=found, expected=expected, advice="Copy or export the series again."
    )


def _order_check(buffer: BytesIO) -> Callable[[BaseTag, str | None, int], bool]:
    """Stops after the pixel data where padding begins; ValueError for what is no list of elements.

    pydicom takes values that end early as they are, and megabytes of zeros as millions of elements.
    """
    total, last, n = len(buffer.getbuffer()), -1, 0

    def stop(tag: BaseTag, _value_type: str | None, length: int) -> bool:
        nonlocal last, n
        n += 1
        if tag < last and last >= _PIXEL_DATA:
            return True
        if tag < last or n > _MOST_ELEMENTS:
            raise ValueError("elements out of order")
        # A deflated file is read from another buffer, and this one stands at its end.
        if length != _UNDEFINED and not length <= total - buffer.tell() and buffer.tell() < total:
            raise ValueError("an element longer than the file")
        last = int(tag)
        return False

    return stop


def _check_inflated_size(content: bytes) -> None:
    """Raise ValueError if a deflated file (transfer syntax ...1.99) would fill the memory when pydicom inflates it."""
    if _DEFLATED not in content[:4096] or content[132:136] != b"\x02\0\0\0":
        return
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    rest, total = content[144 + int.from_bytes(content[140:144], "little") :], 0
    while rest and not stream.eof:
        total += len(stream.decompress(rest, 2**24))
        rest = stream.unconsumed_tail
        if total > _LARGEST_INFLATED_BYTES:
            raise ValueError("inflates to too much")


def undecodable(where: object, label: str) -> InputError:
    """The error for a value that pydicom cannot decode."""
    return InputError(
        "input.header_invalid",
        where=where,
        found=f"{label}, with an attribute that cannot be decoded",
        expected="a header as DICOM PS3.3 says",
        advice="Export the series again.",
    )


def text(dataset: Dataset, keyword: str) -> str:
    """An attribute as text; empty if it is missing or empty."""
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()


def values_of(dataset: Dataset, keyword: str) -> list[Any]:
    """The values of an attribute; none if it is missing or empty."""
    value = dataset.get(keyword)
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
