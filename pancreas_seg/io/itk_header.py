"""Headers of MHA and NRRD files, checked before ITK sees them.

ITK fills in what a header does not say (spacing 1, identity axes), goes on after damaged compressed data, follows the
names of other files, and can die of a wrong number of dimensions; none of these may turn into a mask. So the header is
read here, too, and `itk.decode` compares both readings.

Formats: https://itk.org/Wiki/ITK/MetaIO/Documentation and https://teem.sourceforge.net/nrrd/format.html.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from pancreas_seg.errors import InputError
from pancreas_seg.geometry import Geometry
from pancreas_seg.io.limits import LARGEST_RATIO, check_volume

_LARGEST_HEADER_BYTES = 1_000_000
_MHA_GRID = (
    ("ElementSpacing", "ElementSize"),
    ("TransformMatrix", "Rotation", "Orientation"),
    ("Offset", "Position", "Origin"),
)
_MHA_BYTES = {"CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "LONG": 4, "ULONG": 4}
_MHA_BYTES |= {"LONG_LONG": 8, "ULONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}
_NRRD_BYTES = {
    1: ("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"),
    2: ("short", "short int", "signed short", "signed short int", "int16", "int16_t",
        "ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    4: ("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t", "float"),
    8: ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t",
        "ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t", "double"),
}  # fmt: skip
_NRRD_SPACES = {
    "right-anterior-superior": (1, 1, 1), "ras": (1, 1, 1), "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1),
}  # fmt: skip
_NRRD_SPATIAL_KINDS = {"domain", "space", "???", "none"}
_GZIP, _ZLIB = 31, 15
_DECOMPRESSION_ERRORS: tuple[type[Exception], ...] = (zlib.error, isal_zlib.error)  # type: ignore[assignment]


def check_mha(content: bytes, where: Path) -> Geometry:
    """The grid that an MHA file states.

    Raises
    ------
    InputError
        Unless it states its grid once and in full, and its data are whole.
    """
    end = re.search(rb"(?:^|\n)ElementDataFile[ \t]*=[ \t]*([^\r\n]*)\r?\n", content[:_LARGEST_HEADER_BYTES])
    if end is None:
        raise _damaged(where, "no header that ends with ElementDataFile = LOCAL", "voxels in the same file")
    if end.group(1).strip() != b"LOCAL":
        raise _elsewhere(where)
    fields: dict[str, str] = {}
    for line in content[: end.start()].decode("latin-1").splitlines():
        key, equals, value = line.partition("=")
        if not equals or key.strip() in fields:
            raise _damaged(where, "a header line that is no field, or is there twice", "one `key = value` a line")
        fields[key.strip()] = value.strip()
    if fields.get("ObjectType") != "Image":
        raise _damaged(where, "no `ObjectType = Image`", "the header of an image")
    shape = _shape(fields.get("NDims", ""), fields.get("DimSize", ""), where)
    if fields.get("ElementNumberOfChannels", "1") != "1" or "ARRAY" in fields.get("ElementType", ""):
        raise _not_scalar(where)
    if fields.get("DistanceUnits", "mm").lower() not in ("mm", ""):
        raise _not_mm(where)
    if fields.get("BinaryData", "True").lower() not in ("true", "1") or fields.get("HeaderSize", "0") not in (
        "0",
        "-1",
    ):
        raise _encoding(where, "voxels as text, or not right behind the header")
    _check_intensity(fields, where)
    grid = [_mha_numbers(fields, names, n, where) for names, n in zip(_MHA_GRID, (3, 9, 3), strict=True)]
    size = check_volume(shape, _MHA_BYTES.get(fields.get("ElementType", "").removeprefix("MET_"), 0), where)
    data, compression = content[end.end() :], None
    if fields.get("CompressedData", "False").lower() in ("true", "1"):
        stated = fields.get("CompressedDataSize", "")  # where it is missing, ITK reads memory that nobody wrote
        if not re.fullmatch(r"[0-9]{1,18}", stated) or int(stated) > len(data):
            raise _damaged(where, f"{len(data)} bytes of compressed data", "as many as its header says")
        data, compression = data[: int(stated)], _ZLIB
    _check_data(data, size, compression, where)
    return _geometry(shape, grid[1].reshape(3, 3).T * grid[0], grid[2], (-1, -1, 1), where)


def check_nrrd(content: bytes, where: Path) -> Geometry:
    """The grid that an NRRD file states.

    Raises
    ------
    InputError
        Unless it says in which patient space its axes and origin lie, in mm, and its data are whole.
    """
    end = re.search(rb"\r?\n\r?\n", content[:_LARGEST_HEADER_BYTES])
    if not content.startswith(b"NRRD") or end is None:
        raise _damaged(where, "no NRRD header", "a header, an empty line, and the voxels")
    fields: dict[str, str] = {}
    for line in content[: end.start()].decode("latin-1").splitlines()[1:]:
        key, colon, value = line.partition(":")
        if colon and not value.startswith("=") and not line.startswith("#"):
            name = key.strip().lower()
            if name in fields:
                raise _damaged(where, "a header field that is there twice", "each field once")
            fields[name] = value.strip()
    kinds = set(fields.get("kinds", "").lower().split()) | ({"block"} & {fields.get("type", "")})
    if not kinds - {"time"} <= _NRRD_SPATIAL_KINDS:
        raise _not_scalar(where)
    shape = _shape(fields.get("dimension", ""), fields.get("sizes", ""), where)
    if {"data file", "datafile"} & set(fields):
        raise _elsewhere(where)
    if {fields.get(name, "0") for name in ("byte skip", "byteskip", "line skip", "lineskip")} != {"0"}:
        raise _encoding(where, "voxels that are not right behind the header")
    axes, origin = _nrrd_grid(fields, where)
    item = next((n for n, names in _NRRD_BYTES.items() if fields.get("type", "").lower() in names), 0)
    size = check_volume(shape, item, where)
    if item > 1 and fields.get("endian", "").lower() not in ("little", "big"):
        raise _damaged(where, "no byte order", "a field `endian`")
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise _encoding(where, "voxels as text, or compressed in another way")
    _check_data(content[end.end() :], size, None if encoding == "raw" else _GZIP, where)
    return _geometry(shape, axes, origin, _NRRD_SPACES[fields["space"].lower()], where)


def _nrrd_grid(fields: dict[str, str], where: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if fields.get("space", "").lower() not in _NRRD_SPACES:
        raise _no_orientation(where, "no `space`, or an unknown one", "a space such as left-posterior-superior")
    vectors = []
    for name, n in (("space directions", 3), ("space origin", 1)):
        found = re.findall(r"\(([^()]*)\)", fields.get(name, ""))
        values = [_numbers(vector.split(","), 3) for vector in found]
        if len(values) != n or any(value is None for value in values):
            raise _no_orientation(where, f"no valid field `{name}`", "`space`, `space directions` and `space origin`")
        vectors.append(np.array(values, dtype=np.float64))
    if not set(re.findall(r'"([^"]*)"', fields.get("space units", ""))) <= {"mm", ""}:
        raise _not_mm(where)
    return vectors[0].T, vectors[1][0]


def _mha_numbers(fields: dict[str, str], names: tuple[str, ...], n: int, where: Path) -> NDArray[np.float64]:
    stated = [fields[name] for name in names if name in fields]
    values = _numbers(stated[0].split(), n) if len(stated) == 1 else None
    if values is None:
        raise _no_orientation(
            where, f"no valid field {names[0]}, or more than one", ", ".join(group[0] for group in _MHA_GRID)
        )
    return np.array(values)


def _numbers(parts: list[str], n: int) -> list[float] | None:
    """Exactly n finite decimal numbers, or None."""
    parts = [part.strip() for part in parts]
    if len(parts) != n or not all(re.fullmatch(r"[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?", part) for part in parts):
        return None
    try:
        values = [float(part) for part in parts]
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def _geometry(
    shape: tuple[int, int, int],
    axes: NDArray[np.float64],
    origin: NDArray[np.float64],
    to_ras: tuple[int, int, int],
    where: Path,
) -> Geometry:
    affine: NDArray[Any] = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, origin
    try:
        return Geometry(shape, np.diag([*to_ras, 1]) @ affine)
    except InputError as error:
        raise InputError(
            error.code, where=where, found=error.found, expected=error.expected, advice=error.advice
        ) from error


def _shape(count: str, sizes: str, where: Path) -> tuple[int, int, int]:
    parts = sizes.split()
    plain = all(re.fullmatch(r"[0-9]{1,18}", part) for part in (count, *parts))
    if not plain or not parts or len(parts) != int(count) or "0" in {part.strip("0") or "0" for part in parts}:
        raise _damaged(where, "a header whose dimensions make no sense", "the number of dimensions and that many sizes")
    if len(parts) != 3:
        raise InputError(
            "input.not_3d",
            where=where,
            found=f"an image of {count} dimensions",
            expected="one three-dimensional volume",
            advice="Split a series of volumes into files and give the one to segment.",
        )
    return int(parts[0]), int(parts[1]), int(parts[2])


def _check_intensity(fields: dict[str, str], where: Path) -> None:
    for name, neutral in (("ElementToIntensityFunctionSlope", 1.0), ("ElementToIntensityFunctionOffset", 0.0)):
        if name in fields and _numbers([fields[name]], 1) != [neutral]:
            raise InputError(
                "input.scale_invalid",
                where=where,
                found=f"{name}, which readers treat differently",
                expected=f"{neutral:g}, or no such field",
                advice="Export the image again with its values in HU.",
            )


def _check_data(data: bytes, size: int, compression: int | None, where: Path) -> None:
    """Raise InputError unless the data are ``size`` bytes, after decompression with these zlib window bits."""
    if compression is None:
        if len(data) < size or size == 0:
            raise _damaged(where, f"{len(data)} bytes of data", f"{size} bytes, as its header says")
        return
    if size > LARGEST_RATIO * len(data) + 1024 or size == 0:
        raise _damaged(where, f"{len(data)} bytes of compressed data", f"data for {size} bytes, as its header says")
    try:
        stream = isal_zlib.decompressobj(wbits=compression)
        found = len(stream.decompress(data, size + 1))
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


def _not_scalar(where: Path) -> InputError:
    return InputError(
        "input.not_scalar",
        where=where,
        found="several values per voxel",
        expected="one integer or floating-point number per voxel (HU)",
        advice="Colour and vector images are no CT; export the original CT.",
    )


def _not_mm(where: Path) -> InputError:
    return InputError(
        "input.units",
        where=where,
        found="units of length other than mm",
        expected="millimetres",
        advice="Convert the image; a CT's grid is stated in millimetres.",
    )


def _elsewhere(where: Path) -> InputError:
    return InputError(
        "input.other_file",
        where=where,
        found="a header that names another file for its voxels",
        expected="voxels in the same file",
        advice="Save the image as one file; names inside a file are never followed.",
    )


def _encoding(where: Path, found: str) -> InputError:
    return InputError(
        "input.encoding",
        where=where,
        found=found,
        expected="voxels behind the header, raw or compressed with gzip",
        advice="Save the image again, for example as NIfTI.",
    )


def _damaged(where: Path, found: str, expected: str) -> InputError:
    return InputError(
        "input.truncated", where=where, found=found, expected=expected, advice="Copy or export the file again."
    )
