"""Headers of MHA and NRRD files, checked before ITK sees them.

ITK fills in what a header does not say (spacing 1, identity axes), goes on after damaged compressed data, and can die
of a wrong number of dimensions; none of these may turn into a mask.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path

from isal import isal_zlib

from pancreas_seg.errors import InputError

_LARGEST_HEADER_BYTES = 1_000_000
_MHA_GRID = (
    ("ElementSpacing", "ElementSize"),
    ("TransformMatrix", "Rotation", "Orientation"),
    ("Offset", "Position", "Origin"),
)
_MHA_BYTES = {"CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "LONG": 4, "ULONG": 4}
_MHA_BYTES |= {"LONG_LONG": 8, "ULONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}
_DECOMPRESSION_ERRORS: tuple[type[Exception], ...] = (zlib.error, isal_zlib.error)  # type: ignore[assignment]
_NRRD_SPACES = {
    "right-anterior-superior", "ras", "left-anterior-superior", "las", "left-posterior-superior", "lps",
}  # fmt: skip


def check_mha(content: bytes, where: Path) -> None:
    """Raise InputError unless an MHA file states its grid once and in full and its data are whole."""
    end = re.search(rb"ElementDataFile[ \t]*=[ \t]*([^\r\n]*)\r?\n", content[:_LARGEST_HEADER_BYTES])
    if end is None or end.group(1).strip() != b"LOCAL":
        raise _damaged(where, "no header that ends with ElementDataFile = LOCAL", "voxels in the same file")
    fields: dict[str, str] = {}
    for line in content[: end.start()].decode("latin-1").splitlines():
        key, equals, value = line.partition("=")
        if not equals or key.strip() in fields:
            raise _damaged(where, "a header line that is no field, or is there twice", "one `key = value` a line")
        fields[key.strip()] = value.strip()
    _check_dimensions(fields.get("NDims", ""), fields.get("DimSize", ""), where)
    for names in _MHA_GRID:
        if sum(name in fields for name in names) != 1:
            raise _no_orientation(where, f"no field {names[0]}", ", ".join(group[0] for group in _MHA_GRID))
    if fields.get("CompressedData", "False").lower() == "true":
        _check_compressed(content[end.end() :], fields, where)


def check_nrrd(content: bytes, where: Path) -> None:
    """Raise InputError unless an NRRD header says in which patient space its axes and origin lie, in mm."""
    end = re.search(rb"\r?\n\r?\n", content[:_LARGEST_HEADER_BYTES])
    if not content.startswith(b"NRRD") or end is None:
        raise _damaged(where, "no NRRD header", "a header, an empty line, and the voxels")
    fields = {}
    for line in content[: end.start()].decode("latin-1").splitlines()[1:]:
        key, colon, value = line.partition(":")
        if colon and not line.startswith("#"):
            fields[key.strip().lower()] = value.strip()
    _check_dimensions(fields.get("dimension", ""), fields.get("sizes", ""), where)
    if "data file" in fields or "datafile" in fields:
        raise _damaged(where, "voxels in another file", "voxels in the same file")
    if fields.get("space", "").lower() not in _NRRD_SPACES:
        if fields["dimension"] != "3":
            raise _not_3d(where, fields["dimension"])
        raise _no_orientation(where, f"space {fields.get('space', '')!r}", "a space such as left-posterior-superior")
    for name in ("space directions", "space origin"):
        if name not in fields:
            raise _no_orientation(where, f"no field `{name}`", "`space`, `space directions` and `space origin`")
    if not set(re.findall(r'"([^"]*)"', fields.get("space units", ""))) <= {"mm", ""}:
        raise InputError(
            "input.units",
            where=where,
            found="space units other than mm",
            expected="millimetres",
            advice="Convert the image; a CT's grid is stated in millimetres.",
        )


def _check_dimensions(count: str, sizes: str, where: Path) -> None:
    parts = sizes.split()
    if not (count.isdigit() and parts and all(part.isdigit() for part in parts) and len(parts) == int(count)):
        raise _damaged(where, "a header whose dimensions make no sense", "the number of dimensions and that many sizes")
    if len(parts) > 4:
        raise _not_3d(where, count)


def _check_compressed(data: bytes, fields: dict[str, str], where: Path) -> None:
    size = _MHA_BYTES.get(fields.get("ElementType", "").removeprefix("MET_"), 0)
    size *= int(fields.get("ElementNumberOfChannels", "1") or 1)
    for part in fields["DimSize"].split():
        size *= int(part)
    stated = fields.get("CompressedDataSize", str(len(data)))
    if size > 1100 * len(data) + 1024 or not stated.isdigit() or int(stated) > len(data):
        raise _damaged(where, f"{len(data)} bytes of compressed data", f"data for {size} bytes, as its header says")
    try:
        stream = isal_zlib.decompressobj()
        found = len(stream.decompress(data[: int(stated)], size + 1))
        whole = stream.eof
    except _DECOMPRESSION_ERRORS:
        found, whole = 0, False
    if found != size or not whole:
        raise _damaged(where, f"compressed data that give {found} bytes", f"{size} bytes and a right checksum")


def _no_orientation(where: Path, found: str, expected: str) -> InputError:
    return InputError(
        "input.no_orientation",
        where=where,
        found=found,
        expected=f"{expected}: otherwise it is unknown where the voxels lie",
        advice="Export the image again from its DICOM series.",
    )


def _not_3d(where: Path, dimensions: str) -> InputError:
    return InputError(
        "input.not_3d",
        where=where,
        found=f"an image of {dimensions} dimensions",
        expected="one three-dimensional volume",
        advice="Split a series of volumes into files and give the one to segment.",
    )


def _damaged(where: Path, found: str, expected: str) -> InputError:
    return InputError(
        "input.truncated", where=where, found=found, expected=expected, advice="Copy or export the file again."
    )
