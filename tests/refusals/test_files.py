"""Kinds of bad input as files, each through `segment`: a code, exit code 3, a verdict, and no mask."""

from __future__ import annotations

import gzip
import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from pancreas_seg.cli import main
from tests.refusals.conftest import refused

SHAPE = (12, 10, 8)
DIM, DATATYPE, PIXDIM, VOX_OFFSET, SLOPE, UNITS, CODES, QUATERN, QOFFSET, SROW, MAGIC = (
    40, 70, 76, 108, 112, 123, 252, 256, 268, 280, 344,
)  # fmt: skip
"""Where fields of the NIfTI-1 header are."""

_NOBODY = 65534


def hu(shape: tuple[int, ...] = SHAPE) -> NDArray[np.int16]:
    return np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)


def nifti(
    array: NDArray[np.generic] | None = None, codes: tuple[int, int] = (1, 1), affine: NDArray[np.float64] | None = None
) -> bytes:
    """Bytes of an uncompressed NIfTI-1 file."""
    affine = np.diag([2.0, 2.0, 3.0, 1.0]) if affine is None else affine
    array = hu() if array is None else array
    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    image.set_qform(affine, code=codes[0])
    image.set_sform(affine, code=codes[1])
    image.header.set_xyzt_units("mm")
    return image.to_bytes()


def patched(content: bytes, *changes: tuple[int, str, object]) -> bytes:
    """Bytes with values of a number type (numpy's name) written at places."""
    out = bytearray(content)
    for offset, dtype, value in changes:
        new = np.asarray(value, dtype).tobytes()
        out[offset : offset + len(new)] = new
    return bytes(out)


def replaced(content: bytes, old: bytes, new: bytes) -> bytes:
    assert content.count(old) >= 1
    return content.replace(old, new, 1)


def by_itk(suffix: str, array: NDArray[np.generic] | None = None, packed: bool = False, vector: bool = False) -> bytes:
    """Bytes of an NRRD or MHA file as SimpleITK writes it; axes of ``array`` as SimpleITK has them."""
    image = sitk.GetImageFromArray(hu((8, 10, 12)) if array is None else array, isVector=vector)
    image.SetSpacing([2.0] * image.GetDimension())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        sitk.WriteImage(image, str(path), useCompression=packed)
        return path.read_bytes()


def cut(content: bytes, share: float) -> bytes:
    return content[: int(len(content) * share)]


def flipped(content: bytes, share: float) -> bytes:
    """One byte inverted."""
    return patched(content, (int(len(content) * share), "u1", content[int(len(content) * share)] ^ 0xFF))


def sheared() -> NDArray[np.float64]:
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[1, 2] = 0.6
    return affine


def nifti_2(dims: tuple[int, ...]) -> bytes:
    header = nib.Nifti2Header()
    header["dim"] = [len(dims), *dims, *[1] * (7 - len(dims))]
    header["sform_code"], header["vox_offset"] = 1, 544
    header["srow_x"], header["srow_y"], header["srow_z"] = np.diag([1.0, 1, 1, 1])[:3]
    return header.binaryblock + bytes(9_000)


def with_value(value: float, dtype: str = "f4") -> bytes:
    array = hu().astype(dtype)
    array[1, 2, 3] = value
    return nifti(array)


BOMB = [(DIM, "i2", [3, 2500, 2500, 2500]), (DATATYPE, "i2", 4)]
"""31 GB of int16."""
COLOUR = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
PASSWD = b"ElementDataFile = /etc/passwd"

KINDS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "nifti of no bytes": ("x.nii", lambda: b"", "input.empty_file"),
    "gzip of no bytes": ("x.nii.gz", lambda: gzip.compress(b""), "input.not_nifti"),
    "half a nifti header": ("x.nii", lambda: nifti()[:170], "input.truncated"),
    "a nifti header alone": ("x.nii", lambda: nifti()[:352], "input.truncated"),
    "voxels cut off": ("x.nii", lambda: nifti()[:-1], "input.truncated"),
    "gzip cut off": ("x.nii.gz", lambda: cut(gzip.compress(nifti()), 0.6), "input.truncated"),
    "gzip without its checksum": ("x.nii.gz", lambda: gzip.compress(nifti())[:-8], "input.truncated"),
    "gzip with a wrong checksum": ("x.nii.gz", lambda: flipped(gzip.compress(nifti()), 0.9985), "input.truncated"),
    "gzip with a changed byte": ("x.nii.gz", lambda: flipped(gzip.compress(nifti()), 0.5), "input.truncated"),
    "the first two bytes of a gzip": ("x.nii.gz", lambda: b"\x1f\x8b", "input.truncated"),
    "gzip twice": ("x.nii.gz", lambda: gzip.compress(gzip.compress(nifti())), "input.not_nifti"),
    "text renamed": ("x.nii.gz", lambda: b"Dear colleague,\n" * 40, "input.not_nifti"),
    "text renamed, packed": ("x.nii.gz", lambda: gzip.compress(b"Dear colleague,\n" * 40), "input.not_nifti"),
    "a picture renamed": ("x.nii", lambda: b"\x89PNG\r\n\x1a\n" + bytes(600), "input.not_nifti"),
    "a zip renamed": ("x.nii.gz", lambda: b"PK\x03\x04" + bytes(600), "input.not_nifti"),
    "wrong magic": ("x.nii", lambda: patched(nifti(), (MAGIC, "S4", b"n+3")), "input.not_nifti"),
    "detached .hdr renamed": ("x.nii", lambda: patched(nifti(), (MAGIC, "S4", b"ni1"))[:348], "input.not_nifti"),
    "Analyze renamed": ("x.nii", lambda: patched(nifti(), (MAGIC, "S4", b"")), "input.not_nifti"),
    "10 kB that claim 31 GB": ("x.nii", lambda: cut(patched(nifti(), *BOMB), 1), "input.too_large"),
    "gzip that claims 31 GB": ("x.nii.gz", lambda: gzip.compress(patched(nifti(), *BOMB)), "input.too_large"),
    "NIfTI-2 that claims 2^60 voxels": ("x.nii", lambda: nifti_2((2**20, 2**20, 2**20)), "input.too_large"),
    "NIfTI-2 whose size overflows": ("x.nii", lambda: nifti_2((2**32, 2**31, 2)), "input.too_large"),
    "a claim of 2 GB in 10 kB": (
        "x.nii.gz",
        lambda: gzip.compress(patched(nifti(), (DIM, "i2", [3, 1000, 1000, 1000]))),
        "input.needs_memory",
    ),
    "dimension of 0": ("x.nii", lambda: patched(nifti(), (DIM + 2, "i2", 0)), "input.empty"),
    "negative dimension": ("x.nii", lambda: patched(nifti(), (DIM + 4, "i2", -10)), "input.empty"),
    "no dimensions": ("x.nii", lambda: patched(nifti(), (DIM, "i2", 0)), "input.not_3d"),
    "99 dimensions": ("x.nii", lambda: patched(nifti(), (DIM, "i2", 99)), "input.not_3d"),
    "two dimensions": ("x.nii", lambda: nifti(hu((12, 10))), "input.not_3d"),
    "four dimensions": ("x.nii", lambda: nifti(hu((12, 10, 8, 2))), "input.not_3d"),
    "a single slice": ("x.nii", lambda: nifti(hu((12, 10, 1))), "input.single_slice"),
    "a single row": ("x.nii", lambda: nifti(hu((1, 10, 8))), "input.single_slice"),
    "rgb": ("x.nii", lambda: nifti(COLOUR), "input.not_scalar"),
    "complex": ("x.nii", lambda: nifti(hu().astype(np.complex64)), "input.not_scalar"),
    "unknown datatype": ("x.nii", lambda: patched(nifti(), (DATATYPE, "i2", 3)), "input.not_scalar"),
    "datatype of single bits": ("x.nii", lambda: patched(nifti(), (DATATYPE, "i2", 1)), "input.not_scalar"),
    "voxels inside the header": ("x.nii", lambda: patched(nifti(), (VOX_OFFSET, "f4", 100)), "input.truncated"),
    "voxels behind the end": ("x.nii", lambda: patched(nifti(), (VOX_OFFSET, "f4", 1e30)), "input.truncated"),
    "voxels at NaN": ("x.nii", lambda: patched(nifti(), (VOX_OFFSET, "f4", np.nan)), "input.truncated"),
    "a NaN": ("x.nii", lambda: with_value(np.nan), "input.not_finite"),
    "an infinite value": ("x.nii", lambda: with_value(-np.inf), "input.not_finite"),
    "a float64 beyond float32": ("x.nii", lambda: with_value(1e300, "f8"), "input.not_finite"),
    "a scale beyond float32": ("x.nii", lambda: patched(nifti(), (SLOPE, "f4", [3e38, 0])), "input.not_finite"),
    "all NaN": ("x.nii", lambda: nifti(np.full(SHAPE, np.nan, np.float32)), "input.not_finite"),
    "all equal": ("x.nii", lambda: nifti(np.full(SHAPE, -1000, np.int16)), "input.constant"),
    "infinite scale": ("x.nii", lambda: patched(nifti(), (SLOPE, "f4", [np.inf, 0])), "input.scale_invalid"),
    "offset of the scale is NaN": (
        "x.nii",
        lambda: patched(nifti(), (SLOPE, "f4", [1, np.nan])),
        "input.scale_invalid",
    ),
    "metres": ("x.nii", lambda: patched(nifti(), (UNITS, "u1", 1)), "input.units"),
    "micrometres": ("x.nii", lambda: patched(nifti(), (UNITS, "u1", 3)), "input.units"),
    "unknown units": ("x.nii", lambda: patched(nifti(), (UNITS, "u1", 7)), "input.units"),
    "no orientation": ("x.nii.gz", lambda: gzip.compress(nifti(codes=(0, 0))), "input.no_orientation"),
    "negative form codes": ("x.nii", lambda: patched(nifti(), (CODES, "i2", [-1, -1])), "input.form_code"),
    "a form code that nobody knows": ("x.nii", lambda: patched(nifti(), (CODES, "i2", [1, 34])), "input.form_code"),
    "forms apart": ("x.nii", lambda: patched(nifti(), (SROW + 12, "f4", 5)), "input.forms_disagree"),
    "forms mirrored": ("x.nii", lambda: patched(nifti(), (SROW, "f4", -2)), "input.forms_disagree"),
    "sheared": ("x.nii", lambda: nifti(codes=(0, 1), affine=sheared()), "input.affine_sheared"),
    "two equal axes": (
        "x.nii",
        lambda: patched(nifti(codes=(0, 1)), (SROW + 16, "f4", [2, 0, 0, 0])),
        "input.affine_singular",
    ),
    "spacing of 0": ("x.nii", lambda: patched(nifti(codes=(1, 0)), (PIXDIM + 4, "f4", 0)), "input.affine_singular"),
    "negative spacing": ("x.nii", lambda: patched(nifti(codes=(1, 0)), (PIXDIM + 4, "f4", -2)), "input.affine_invalid"),
    "spacing is NaN": (
        "x.nii",
        lambda: patched(nifti(codes=(1, 0)), (PIXDIM + 4, "f4", np.nan)),
        "input.affine_invalid",
    ),
    "sform of NaN": ("x.nii", lambda: patched(nifti(codes=(0, 1)), (SROW, "f4", np.nan)), "input.affine_invalid"),
    "quaternion too long": ("x.nii", lambda: patched(nifti(codes=(1, 0)), (QUATERN, "f4", 3)), "input.affine_invalid"),
    "spacing of 1 m": ("x.nii", lambda: nifti(affine=np.diag([1000.0, 1000, 1000, 1])), "input.spacing"),
    "spacing of 1 µm": ("x.nii", lambda: nifti(affine=np.diag([1e-3, 1e-3, 1e-3, 1])), "input.spacing"),
    "1000 km away": ("x.nii", lambda: patched(nifti(codes=(1, 0)), (QOFFSET, "f4", 1e8)), "input.position"),
    "1e30 mm away": ("x.nii", lambda: patched(nifti(codes=(1, 0)), (QOFFSET, "f4", 1e30)), "input.affine_invalid"),
    "mha of no bytes": ("x.mha", lambda: b"", "input.empty_file"),
    "mha that is text": ("x.mha", lambda: b"Dear colleague,\n" * 40, "input.truncated"),
    "mha with voxels cut off": ("x.mha", lambda: by_itk(".mha")[:-1], "input.truncated"),
    "packed mha cut off": ("x.mha", lambda: cut(by_itk(".mha", packed=True), 0.9), "input.truncated"),
    "packed mha with a changed byte": ("x.mha", lambda: flipped(by_itk(".mha", packed=True), 0.9), "input.truncated"),
    "mha that names another file": (
        "x.mha",
        lambda: replaced(by_itk(".mha"), b"ElementDataFile = LOCAL", PASSWD),
        "input.other_file",
    ),
    "mha that names a list of files": (
        "x.mha",
        lambda: replaced(by_itk(".mha"), b"ElementDataFile = LOCAL", b"ElementDataFile = LIST\n/etc/passwd"),
        "input.other_file",
    ),
    "mha that claims 30 GB": (
        "x.mha",
        lambda: replaced(by_itk(".mha"), b"DimSize = 12 10 8", b"DimSize = 2500 2500 2500"),
        "input.too_large",
    ),
    "packed mha that claims 30 GB": (
        "x.mha",
        lambda: replaced(by_itk(".mha", packed=True), b"DimSize = 12 10 8", b"DimSize = 2500 2500 2500"),
        "input.too_large",
    ),
    "mha of 0 slices": ("x.mha", lambda: replaced(by_itk(".mha"), b"12 10 8", b"12 10 0"), "input.truncated"),
    "mha without spacing": (
        "x.mha",
        lambda: replaced(by_itk(".mha"), b"ElementSpacing", b"ElementDistance"),
        "input.no_orientation",
    ),
    "mha whose spacing is no number": (
        "x.mha",
        lambda: replaced(by_itk(".mha"), b"ElementSpacing = 2 2 2", b"ElementSpacing = 2 2 nan"),
        "input.no_orientation",
    ),
    "mha that states its place twice": (
        "x.mha",
        lambda: replaced(by_itk(".mha"), b"Offset = 0 0 0", b"Offset = 0 0 0\nOffset = 9 9 9"),
        "input.truncated",
    ),
    "mha that states its place in two ways": (
        "x.mha",
        lambda: replaced(by_itk(".mha"), b"Offset = 0 0 0", b"Offset = 0 0 0\nOrigin: 9 9 9 = 3\nPosition = 1 1 1"),
        "input.no_orientation",
    ),
    "mha of metres": (
        "x.mha",
        lambda: replaced(by_itk(".mha"), b"DimSize", b"DistanceUnits = m\nDimSize"),
        "input.units",
    ),
    "mha with a scale": (
        "x.mha",
        lambda: replaced(by_itk(".mha"), b"DimSize", b"ElementToIntensityFunctionSlope = 2\nDimSize"),
        "input.scale_invalid",
    ),
    "mha of text": (
        "x.mha",
        lambda: replaced(by_itk(".mha"), b"BinaryData = True", b"BinaryData = False"),
        "input.encoding",
    ),
    "mha of four dimensions": ("x.mha", lambda: by_itk(".mha", hu((2, 8, 10, 12))), "input.not_3d"),
    "mha of colours": (
        "x.mha",
        lambda: by_itk(".mha", np.ones((8, 10, 12, 3), np.uint8), vector=True),
        "input.not_scalar",
    ),
    "nrrd that is text": ("x.nrrd", lambda: b"Dear colleague,\n" * 40, "input.truncated"),
    "nrrd with voxels cut off": ("x.nrrd", lambda: by_itk(".nrrd")[:-1], "input.truncated"),
    "packed nrrd cut off": ("x.nrrd", lambda: cut(by_itk(".nrrd", packed=True), 0.9), "input.truncated"),
    "packed nrrd with a changed byte": (
        "x.nrrd",
        lambda: flipped(by_itk(".nrrd", packed=True), 0.9),
        "input.truncated",
    ),
    "nrrd with its voxels in another file": (
        "x.nrrd",
        lambda: replaced(by_itk(".nrrd"), b"encoding:", b"data file: /etc/passwd\nencoding:"),
        "input.other_file",
    ),
    "nrrd with a pattern of files": (
        "x.nrrd",
        lambda: replaced(by_itk(".nrrd"), b"encoding:", b"datafile: ../%03d.raw 1 8 1\nencoding:"),
        "input.other_file",
    ),
    "nrrd that claims 30 GB": (
        "x.nrrd",
        lambda: replaced(by_itk(".nrrd", packed=True), b"sizes: 12 10 8", b"sizes: 2500 2500 2500"),
        "input.too_large",
    ),
    "nrrd without a patient space": (
        "x.nrrd",
        lambda: replaced(by_itk(".nrrd"), b"left-posterior-superior", b"scanner-xyz"),
        "input.no_orientation",
    ),
    "nrrd without directions": (
        "x.nrrd",
        lambda: replaced(by_itk(".nrrd"), b"space directions:", b"space directives:"),
        "input.no_orientation",
    ),
    "nrrd with a direction of none": (
        "x.nrrd",
        lambda: replaced(by_itk(".nrrd"), b"(2,0,0)", b"none"),
        "input.no_orientation",
    ),
    "nrrd of metres": (
        "x.nrrd",
        lambda: replaced(by_itk(".nrrd"), b"space origin:", b'space units: "m" "m" "m"\nspace origin:'),
        "input.units",
    ),
    "nrrd of text": (
        "x.nrrd",
        lambda: replaced(by_itk(".nrrd"), b"encoding: raw", b"encoding: ascii"),
        "input.encoding",
    ),
    "nrrd with bytes to skip": (
        "x.nrrd",
        lambda: replaced(by_itk(".nrrd"), b"encoding:", b"byte skip: -1\nencoding:"),
        "input.encoding",
    ),
    "nrrd without byte order": ("x.nrrd", lambda: replaced(by_itk(".nrrd"), b"endian:", b"indian:"), "input.truncated"),
    "nrrd of four dimensions": ("x.nrrd", lambda: by_itk(".nrrd", hu((2, 8, 10, 12))), "input.not_3d"),
    "nrrd of colours": (
        "x.nrrd",
        lambda: by_itk(".nrrd", np.ones((8, 10, 12, 3), np.uint8), vector=True),
        "input.not_scalar",
    ),
    "sheared nrrd": ("x.nrrd", lambda: replaced(by_itk(".nrrd"), b"(0,2,0)", b"(1,2,0)"), "input.affine_sheared"),
    "mhd with its voxels beside it": (
        "x.mhd",
        lambda: replaced(by_itk(".mha"), b"ElementDataFile = LOCAL", b"ElementDataFile = x.raw"),
        "input.unknown_format",
    ),
    "Analyze header": ("x.hdr", lambda: nifti()[:348], "input.unknown_format"),
}


def _folder(path: Path) -> None:
    path.mkdir()


def _link_loop(path: Path) -> None:
    path.symlink_to(path.with_name("y.nii.gz"))
    path.with_name("y.nii.gz").symlink_to(path)


def _dead_link(path: Path) -> None:
    path.symlink_to(path.with_name("gone.nii.gz"))


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket is at most 107 bytes long
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _sparse(path: Path) -> None:
    path.write_bytes(nifti())
    os.truncate(path, 30 * 10**9)


PATHS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "nothing there": ("x.nii.gz", lambda path: None, "input.unreadable"),
    "a folder with a file's name": ("x.nii.gz", _folder, "input.is_folder"),
    "links in a circle": ("x.nii.gz", _link_loop, "input.unreadable"),
    "a link to nothing": ("x.nii.gz", _dead_link, "input.unreadable"),
    "a pipe": ("x.nii.gz", _pipe, "input.not_a_file"),
    "a socket": ("x.nii", _socket, "input.not_a_file"),
    "a device": ("x.nii", _device, "input.not_a_file"),
    "a file of 30 GB": ("x.nii", _sparse, "input.too_large"),
    "a file as a folder": ("x.nii/y.nii", lambda path: path.parent.write_bytes(nifti()), "input.unreadable"),
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", KINDS)
def test_bad_content_is_refused(kind: str, weights, tmp_path, capsys) -> None:
    name, make, code = KINDS[kind]
    path = tmp_path / name
    path.write_bytes(make())
    assert refused(path, weights, tmp_path / "out", capsys)["reasons"][0]["code"] == code  # type: ignore[index]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", PATHS)
def test_bad_paths_are_refused(kind: str, weights, tmp_path, capsys) -> None:
    name, make, code = PATHS[kind]
    make(tmp_path / name)
    assert refused(tmp_path / name, weights, tmp_path / "out", capsys)["reasons"][0]["code"] == code  # type: ignore[index]


def test_a_name_that_no_file_can_have_is_refused(weights, tmp_path, capsys) -> None:
    """Its case's folder cannot be made either, so only summary.csv and stderr tell."""
    out = tmp_path / "out"
    assert main(["segment", "x" * 300 + ".nii", "--weights", str(weights), "--out", str(out)]) == 3
    assert "input.unreadable" in (out / "summary.csv").read_text()
    assert [p.name for p in out.iterdir()] == ["summary.csv"]
    assert "Traceback" not in capsys.readouterr().err


@pytest.fixture
def _open_folder() -> Iterator[Path]:
    """A folder that anyone may write to; the test runs as somebody without special rights."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        root = os.geteuid() == 0
        if root:
            os.seteuid(_NOBODY)
        yield Path(name)
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("closed", ["file", "folder"])
def test_what_may_not_be_read_is_refused(closed: str, weights, _open_folder, capsys) -> None:  # noqa: PT019
    copy = _open_folder / "w.safetensors"
    if os.geteuid() == _NOBODY:
        os.seteuid(0)
    copy.write_bytes(weights.read_bytes())
    copy.chmod(0o644)
    if os.geteuid() == 0:
        os.seteuid(_NOBODY)
    inside = _open_folder / "in"
    inside.mkdir()
    path = inside / "x.nii.gz"
    path.write_bytes(gzip.compress(nifti()))
    (path if closed == "file" else inside).chmod(0)
    try:
        facts = refused(path, copy, _open_folder / "out", capsys)
    finally:
        inside.chmod(0o700)
    assert facts["reasons"][0]["code"] == "input.unreadable"  # type: ignore[index]


def test_at_least_45_kinds() -> None:
    assert len(KINDS) + len(PATHS) + 2 >= 45
    made = [make() for _, make, _ in KINDS.values()]
    assert len({bytes(content) for content in made}) >= len(KINDS) - 4  # text and nothing under several names


BIG_ENDIAN = nib.Nifti1Header(endianness=">")


def _big_endian() -> bytes:
    image = nib.Nifti1Image(hu().astype(">i2"), np.diag([2.0, 2.0, 3.0, 1.0]), BIG_ENDIAN)
    image.set_data_dtype(">i2")
    image.set_sform(image.affine, code=1)
    return image.to_bytes()


GOOD: dict[str, tuple[str, Callable[[], bytes], Callable[[NDArray[np.int16]], NDArray[np.generic]]]] = {
    "big-endian": ("x.nii", _big_endian, lambda a: a),
    "8 bits, as a picture has": (
        "x.nii",
        lambda: nifti(((hu() + 1000) // 8).astype(np.uint8)),
        lambda a: (a + 1000) // 8,
    ),
    "MR-like": ("x.nii", lambda: nifti((hu() + 1000).astype(np.uint16)), lambda a: a + 1000),
    "an offset beyond 16 bits": (
        "x.nii",
        lambda: patched(nifti((hu().astype(np.int32) + 40000).astype(np.uint16)), (SLOPE, "f4", [1, -40000])),
        lambda a: a,
    ),
    "gzip under a plain name": ("x.nii", lambda: gzip.compress(nifti()), lambda a: a),
    "plain under a gzip's name": ("x.nii.gz", nifti, lambda a: a),
    "gzip of two members": (
        "x.nii.gz",
        lambda: gzip.compress(nifti()[:999]) + gzip.compress(nifti()[999:]),
        lambda a: a,
    ),
    "more bytes than voxels": ("x.nii", lambda: nifti() + b"more", lambda a: a),
    "extension between header and voxels": ("x.nii", lambda: _with_extension(), lambda a: a),
    "one sform alone": ("x.nii", lambda: nifti(codes=(0, 2)), lambda a: a),
    "qfac of 0, which counts as 1": ("x.nii", lambda: patched(nifti(), (PIXDIM, "f4", 0)), lambda a: a),
}


def _with_extension() -> bytes:
    image = nib.Nifti1Image.from_bytes(nifti())
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"anything"))
    return image.to_bytes()


@pytest.mark.parametrize("kind", GOOD)
def test_unusual_but_sound_files_are_read(kind: str, weights, tmp_path) -> None:
    from pancreas_seg.io import read_ct

    name, make, expected = GOOD[kind]
    path = tmp_path / name
    path.write_bytes(make())
    scan = read_ct(path)
    np.testing.assert_array_equal(scan.image, expected(hu()))
    np.testing.assert_array_equal(scan.geometry.affine, np.diag([2.0, 2.0, 3.0, 1.0]))
    assert main(["segment", str(path), "--weights", str(weights), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "x" / "mask.nii.gz").is_file()


@pytest.mark.parametrize("kind", ["8 bits, as a picture has", "MR-like"])
def test_values_that_are_no_hu_are_for_review(kind: str, weights, tmp_path) -> None:
    (tmp_path / "x.nii").write_bytes(GOOD[kind][1]())
    assert main(["segment", str(tmp_path / "x.nii"), "--weights", str(weights), "--out", str(tmp_path / "out")]) == 0
    facts = json.loads((tmp_path / "out" / "x" / "result.json").read_text())
    assert facts["verdict"] == "review"
    assert "result.not_hu" in {reason["code"] for reason in facts["reasons"]}
