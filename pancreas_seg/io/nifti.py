"""NIfTI-1 and NIfTI-2: voxels, the grid, and the header fields that state the grid.

Standard: https://nifti.nimh.nih.gov/nifti-1 (qform, sform, xyzt_units, scl_slope).
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from pancreas_seg.errors import InputError
from pancreas_seg.geometry import Geometry
from pancreas_seg.io.limits import LARGEST_RATIO, check_volume

FORMS_TOLERANCE_MM = 0.1
"""Largest distance between a corner voxel by qform and by sform that still counts as agreement."""

_GRID_FIELDS = (
    "qform_code", "sform_code", "xyzt_units", "quatern_b", "quatern_c", "quatern_d",
    "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z",
)  # fmt: skip
_MM = 2
_LINE_ENDS = b"\r\n\x1a\n"
_FORM_CODES = range(6)
_DECOMPRESSION_ERRORS: tuple[type[Exception], ...] = (EOFError, OSError, zlib.error, isal_zlib.error)  # type: ignore[assignment]


@dataclass(frozen=True)
class NiftiImage:
    """A decoded file: stored voxels (I, J, K), their scale, grid, and a header that holds nothing but the grid."""

    stored: NDArray[Any]
    slope: float
    inter: float
    geometry: Geometry
    grid_header: nib.Nifti1Header


def decode(content: bytes, where: Path) -> NiftiImage:
    """Decode the bytes of a .nii or .nii.gz file.

    Raises
    ------
    InputError
        If it is truncated or damaged, not three-dimensional, not a plain number per voxel, or its header does not say,
        or contradicts itself about, where the voxels lie.
    """
    raw = _decompressed(content, where) if content[:2] == b"\x1f\x8b" else content
    header = _header(raw, where)
    _check_kind(header, where)
    need = _total_bytes(header, where)
    if len(raw) < need:
        raise _truncated(where, f"{len(raw)} bytes", f"{need} bytes, as its header says")
    shape = tuple(int(n) for n in header.get_data_shape())[:3]
    offset = int(header.get_data_offset())
    stored = np.frombuffer(raw, header.get_data_dtype(), int(np.prod(shape)), offset).reshape(shape, order="F")
    slope, inter = _scale(header, where)
    return NiftiImage(stored, slope, inter, _geometry(header, shape, where), grid_header(header))


def grid_header(source: nib.Nifti1Header) -> nib.Nifti1Header:
    """A fresh header with the fields of ``source`` that state the grid, bit for bit, and no others.

    Free text of the source (descrip, aux_file, db_name, extensions) can name a patient and stays behind.
    """
    fresh = type(source)(endianness=source.endianness)
    fresh.set_data_shape(source.get_data_shape()[:3])
    for name in _GRID_FIELDS:
        fresh[name] = source[name]
    fresh["pixdim"][:4] = source["pixdim"][:4]
    return fresh


def encode(array: NDArray[Any], header: nib.Nifti1Header, description: str = "", scale: float = 1.0) -> bytes:
    """Bytes of an uncompressed NIfTI file: an array (I, J, K) or (I, J, K, N) on the header's grid.

    Readers multiply its values with ``scale``.
    """
    header = header.copy()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    header.set_slope_inter(scale, 0.0)
    header["descrip"] = description.encode("ascii", "replace")[:79]
    image_class = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    header["magic"] = image_class.header_class().default_structarr()["magic"]
    header.set_data_offset(image_class.header_class.single_vox_offset)
    out = io.BytesIO()
    out.write(header.binaryblock)
    out.write(b"\0\0\0\0")
    out.write(array.astype(header.get_data_dtype(), copy=False).tobytes(order="F"))
    return out.getvalue()


def header_for(geometry: Geometry) -> nib.Nifti1Header:
    """A header that states a grid by qform and sform, both as scanner coordinates, in mm."""
    header = nib.Nifti1Header() if max(geometry.shape) < 2**15 else nib.Nifti2Header()
    header.set_data_shape(geometry.shape)
    header.set_qform(geometry.affine, code=1, strip_shears=True)
    header.set_sform(geometry.affine, code=1)
    header.set_xyzt_units(xyz="mm")
    return header


def compress(raw: bytes) -> bytes:
    """Gzip at a fast level, with no time stamp and no name inside: the same bytes give the same file."""
    return bytes(igzip.compress(raw, compresslevel=2, mtime=0))


def _decompressed(content: bytes, where: Path) -> bytes:
    # Reading stops at the size that the header states, so a small file can't fill the memory.
    try:
        with igzip.IGzipFile(fileobj=io.BytesIO(content)) as file:
            start = file.read(544)
            header = _header(start, where)
            _check_kind(header, where)
            need = _total_bytes(header, where)
            if need > LARGEST_RATIO * len(content) + 544:
                raise _truncated(
                    where, f"{len(content)} bytes, compressed", f"data for {need} bytes, as its header says"
                )
            raw = start + file.read(max(0, need - len(start)))
            file.read(1)
            return raw
    except _DECOMPRESSION_ERRORS as error:
        raise _truncated(where, f"gzip data that cannot be decompressed ({error})", "a complete gzip file") from error


def _header(raw: bytes, where: Path) -> nib.Nifti1Header:
    size = raw[:4]
    classes = {348: (nib.Nifti1Header, 348, b"n+1"), 540: (nib.Nifti2Header, 540, b"n+2")}
    for order in ("<", ">"):
        found = classes.get(int(np.frombuffer(size, f"{order}i4")[0]) if len(size) == 4 else -1)
        if found is None:
            continue
        kind, length, magic = found
        if len(raw) < length:
            raise _truncated(where, f"{len(raw)} bytes", f"a header of {length} bytes")
        try:
            header = kind(raw[:length], endianness=order, check=False)
        except (HeaderDataError, ValueError) as error:
            raise _not_nifti(where) from error
        stated = bytes(header["magic"].item())
        if stated[:3] != magic:
            raise _not_nifti(where)
        if stated[4:] not in (b"", _LINE_ENDS):
            raise _truncated(where, "line ends that a transfer as text has changed", "the file's own bytes")
        return header
    raise _not_nifti(where)


def _check_kind(header: nib.Nifti1Header, where: Path) -> None:
    n_dims = int(header["dim"][0])
    dims = [int(n) for n in header["dim"][1 : 1 + max(0, min(n_dims, 7))]]
    if not 3 <= n_dims <= 7 or any(n > 1 for n in dims[3:]):
        raise InputError(
            "input.not_3d",
            where=where,
            found=f"an image of {n_dims} dimensions {tuple(dims)}",
            expected="one three-dimensional volume",
            advice="Split a series of volumes into files and give the one to segment.",
        )
    if min(dims) < 1:
        raise InputError(
            "input.empty",
            where=where,
            found=f"dimensions {tuple(dims)}",
            expected="at least one voxel along each axis",
            advice="Export the image again.",
        )
    try:
        dtype = header.get_data_dtype()
    except (HeaderDataError, KeyError):
        dtype = None
    if dtype is None or dtype.kind not in "iufb" or dtype.itemsize > 8:
        raise InputError(
            "input.not_scalar",
            where=where,
            found=f"voxels of type {dtype if dtype is not None else int(header['datatype'])}",
            expected="one integer or floating-point number per voxel (HU)",
            advice="Colour and complex images are no CT; export the original CT.",
        )
    offset = float(header["vox_offset"])
    if not np.isfinite(offset) or offset < header.single_vox_offset:
        raise _truncated(where, f"voxel data at byte {offset}", f"at byte {header.single_vox_offset} or later")


def _total_bytes(header: nib.Nifti1Header, where: Path) -> int:
    shape = [int(n) for n in header.get_data_shape()]
    return int(header.get_data_offset()) + check_volume(shape, int(header.get_data_dtype().itemsize), where)


def _scale(header: nib.Nifti1Header, where: Path) -> tuple[float, float]:
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0.0 or np.isnan(slope):
        return 1.0, 0.0
    if not np.isfinite(slope) or not np.isfinite(inter):
        raise InputError(
            "input.scale_invalid",
            where=where,
            found=f"scl_slope {slope}, scl_inter {inter}",
            expected="finite numbers",
            advice="Export the image again; its values cannot be turned into HU.",
        )
    return slope, inter


def _geometry(header: nib.Nifti1Header, shape: tuple[int, ...], where: Path) -> Geometry:
    units = int(header["xyzt_units"]) & 7
    if units not in (0, _MM):
        raise InputError(
            "input.units",
            where=where,
            found=f"spatial units {({1: 'metre', 3: 'micron'}).get(units, units)}",
            expected="millimetres",
            advice="Convert the image; a CT's grid is stated in millimetres.",
        )
    if header["pixdim"][0] == 0:  # qfac, which the standard says to take as 1
        header = header.copy()
        header["pixdim"][0] = 1
    codes = [int(header[f"{name}_code"]) for name in ("qform", "sform")]
    if not set(codes) <= set(_FORM_CODES):
        raise InputError(
            "input.form_code",
            where=where,
            found=f"qform_code {codes[0]} and sform_code {codes[1]}",
            expected=f"codes from 0 to {max(_FORM_CODES)}; readers ignore a form of another code, or do not",
            advice="Export the image again; its header does not say where the voxels lie.",
        )
    forms: dict[str, Geometry] = {}
    for name, get in (("sform", header.get_sform), ("qform", header.get_qform)):
        if int(header[f"{name}_code"]) > 0:
            try:
                with np.errstate(all="ignore"):
                    forms[name] = Geometry((shape[0], shape[1], shape[2]), get())
            except InputError as error:
                raise InputError(
                    error.code,
                    where=f"{where} ({name})",
                    found=error.found,
                    expected=error.expected,
                    advice=error.advice,
                ) from error
            except (ValueError, HeaderDataError, np.linalg.LinAlgError) as error:
                raise InputError(
                    "input.affine_invalid",
                    where=f"{where} ({name})",
                    found=f"an orientation that cannot be computed ({error})",
                    expected="a valid quaternion or matrix",
                    advice="Export the image again; its header does not say where the voxels lie.",
                ) from error
    if not forms:
        raise InputError(
            "input.no_orientation",
            where=where,
            found="qform_code 0 and sform_code 0",
            expected="at least one of them above 0: otherwise left and right are unknown",
            advice="Export the image again from its DICOM series.",
        )
    if len(forms) == 2 and (apart := forms["sform"].distance_mm(forms["qform"])) > FORMS_TOLERANCE_MM:
        raise InputError(
            "input.forms_disagree",
            where=where,
            found=f"qform and sform that place a corner {apart:.2f} mm apart",
            expected=f"both on the same grid, within {FORMS_TOLERANCE_MM} mm",
            advice="Set the code of the wrong one to 0; the file does not say which one is right.",
        )
    return next(iter(forms.values()))


def _not_nifti(where: Path) -> InputError:
    return InputError(
        "input.not_nifti",
        where=where,
        found="a file without a NIfTI header",
        expected="NIfTI-1 or NIfTI-2 in one file (.nii or .nii.gz)",
        advice="Check the file; Analyze pairs (.hdr and .img) are not read.",
    )


def _truncated(where: Path, found: str, expected: str) -> InputError:
    return InputError(
        "input.truncated", where=where, found=found, expected=expected, advice="Copy or export the file again."
    )
