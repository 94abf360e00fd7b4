"""Compressed frames, encoded by other libraries than the one that decodes them."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate, encapsulate_extended, get_frame
from pydicom.uid import (
    JPEG2000,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from pancreas_seg.errors import InputError
from pancreas_seg.io import read_ct
from pancreas_seg.io.dicom import decoding
from pancreas_seg.io.dicom.decoding import frame_size
from tests.io.conftest import INTERCEPT, make_multi_frame, make_slices, save


@pytest.fixture
def volume(oblique_volume):
    """Large enough for the JPEG 2000 encoder's wavelets: 44 columns by 40 rows."""
    hu, affine = oblique_volume
    return np.tile(hu, (4, 5, 1)), affine


@pytest.fixture
def slices(volume):
    return make_slices(*volume)


@pytest.fixture(params=["unsigned 12", "signed 16", "signed 12"])
def stored(request, slices):
    """Slices in the three usual ways to store a CT's numbers."""
    kind, bits = request.param.split()
    for ds in slices:
        if kind == "signed":
            hu = np.frombuffer(ds.PixelData, "<u2").astype(np.int16) + INTERCEPT
            ds.PixelRepresentation, ds.RescaleIntercept = 1, 0
            ds.PixelData = hu.astype("<i2").tobytes()
        ds.BitsStored, ds.HighBit = int(bits), int(bits) - 1
    return slices


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless], ids=["rle", "jpeg-ls", "jpeg 2000"])
def test_lossless_syntaxes_decode_bit_for_bit(stored, tmp_path, syntax) -> None:
    plain = read_ct(save(stored, tmp_path / "plain"))
    for ds in stored:
        ds.compress(syntax, generate_instance_uid=False)
        assert ds.file_meta.TransferSyntaxUID == syntax
    scan = read_ct(save(stored, tmp_path / "ct"))
    np.testing.assert_array_equal(scan.image, plain.image)
    assert scan.sha256 != plain.sha256


def test_jpeg_lossless_decodes_bit_for_bit(stored, tmp_path) -> None:
    """Process 14, selection value 1: the most common one, encoded by ITK."""
    plain = read_ct(save(stored, tmp_path / "plain"))
    for n, ds in enumerate(stored):
        kind = np.int16 if ds.PixelRepresentation else np.uint16
        image = sitk.GetImageFromArray(np.frombuffer(ds.PixelData, "<u2").view(kind).reshape(1, ds.Rows, ds.Columns))
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.UseCompressionOn()
        writer.SetCompressor("JPEG")
        writer.SetFileName(str(tmp_path / f"{n}.dcm"))
        writer.Execute(image)
        packed = dcmread(tmp_path / f"{n}.dcm")
        assert packed.file_meta.TransferSyntaxUID == JPEGLosslessSV1
        ds.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        ds.PixelData = packed.PixelData
        ds["PixelData"].VR = "OB"
    np.testing.assert_array_equal(read_ct(save(stored, tmp_path / "ct")).image, plain.image)


@pytest.mark.parametrize("syntax", [JPEGLSNearLossless, JPEG2000], ids=["jpeg-ls", "jpeg 2000"])
def test_lossy_syntaxes_decode_to_nearly_the_same(slices, tmp_path, syntax) -> None:
    plain = read_ct(save(slices, tmp_path / "plain"))
    options = {"jls_error": 4} if syntax == JPEGLSNearLossless else {"j2k_cr": [2]}
    for ds in slices:
        ds.compress(syntax, generate_instance_uid=False, **options)
    image = read_ct(save(slices, tmp_path / "ct")).image
    assert 0 < np.abs(image - plain.image).max() <= (4 if syntax == JPEGLSNearLossless else 300)


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGExtended12Bit], ids=["baseline", "extended"])
def test_jpeg_of_8_bits_decodes_as_pillow_does(slices, tmp_path, syntax) -> None:
    rng = np.random.default_rng(3)
    expected = []
    for ds in slices:
        with BytesIO() as buffer:
            Image.fromarray(rng.integers(0, 255, (40, 44)).astype(np.uint8)).save(buffer, "JPEG", quality=95)
            frame = buffer.getvalue()
        expected.append(np.asarray(Image.open(BytesIO(frame))).T.astype(np.float32) + INTERCEPT)
        ds.BitsAllocated = ds.BitsStored = 8
        ds.HighBit = 7
        ds.file_meta.TransferSyntaxUID = syntax
        ds.PixelData = encapsulate([frame])
        ds["PixelData"].VR = "OB"
    np.testing.assert_array_equal(read_ct(save(slices, tmp_path / "ct")).image, np.stack(expected, -1))


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("syntax", [JPEGLSLossless, RLELossless], ids=["jpeg-ls", "rle"])
def test_a_compressed_multi_frame_file_is_read(volume, slices, tmp_path, syntax, extended: bool) -> None:
    order = [3, 0, 5, 1, 4, 2]
    plain = read_ct(save(slices, tmp_path / "plain"))
    frames = []
    for ds in slices:
        ds.compress(syntax, generate_instance_uid=False)
        frames.append(get_frame(ds.PixelData, 0, number_of_frames=1))
    multi = make_multi_frame(*volume, order)
    multi.file_meta.TransferSyntaxUID = syntax
    wanted = [frames[k] for k in order]
    if extended:
        multi.PixelData, multi.ExtendedOffsetTable, multi.ExtendedOffsetTableLengths = encapsulate_extended(wanted)
    else:
        multi.PixelData = encapsulate(wanted)
    multi["PixelData"].VR = "OB"
    scan = read_ct(save([multi], tmp_path / "ct"))
    np.testing.assert_array_equal(scan.image, plain.image)


def _cut(frame: bytes) -> bytes:
    return frame[: len(frame) // 2]


def _larger(frame: bytes) -> bytes:
    """Rows and columns of the codestream set to 60,000."""
    for marker, at in ((b"\xff\xf7", 5), (b"\xff\x51", 6)):
        start = frame.find(marker)
        if start >= 0:
            wide = b"\xea\x60" * 2 if marker == b"\xff\xf7" else b"\0\0\xea\x60" * 2
            return frame[: start + at] + wide + frame[start + at + len(wide) :]
    raise AssertionError


def _no_image(_: bytes) -> bytes:
    return b"no image"


def _zeros(frame: bytes) -> bytes:
    return frame[:60] + bytes(len(frame) - 62) + frame[-2:]


@pytest.mark.parametrize(
    ("syntax", "damage"),
    [
        *((syntax, damage) for syntax in (JPEGLSLossless, JPEG2000Lossless) for damage in (_cut, _larger, _no_image)),
        (JPEGLSLossless, _zeros),  # JPEG 2000 decodes them: nothing in its codestream says that they are wrong
    ],
)
def test_damaged_frames_are_refused(slices, tmp_path, syntax, damage) -> None:
    for ds in slices:
        ds.compress(syntax, generate_instance_uid=False)
    broken = damage(get_frame(slices[4].PixelData, 0, number_of_frames=1))
    slices[4].PixelData = encapsulate([broken])
    slices[4]["PixelData"].VR = "OB"
    folder = save(slices, tmp_path / "ct")
    with pytest.raises(InputError, match="file 5 of 6, with pixel data that cannot be decoded.*input.truncated"):
        read_ct(folder)


def test_the_size_of_a_frame_is_read_from_its_codestream(slices) -> None:
    for syntax in (JPEGLSLossless, JPEG2000Lossless):
        ds = slices.pop()
        ds.compress(syntax, generate_instance_uid=False)
        assert frame_size(get_frame(ds.PixelData, 0, number_of_frames=1)) == (40, 44)
    assert frame_size(b"") is None
    assert frame_size(b"\xff\xd8\xff") is None
    assert frame_size(b"\xff\xd8" + b"\xff\xe0\x00\x04ab" * 3) is None


def test_a_decoder_that_dies_or_hangs_is_a_refusal(slices, tmp_path, monkeypatch) -> None:
    for ds in slices:
        ds.compress(JPEGLSLossless, generate_instance_uid=False)
    folder = save(slices, tmp_path / "ct")
    for code in ("import os; os.abort()", "import time; time.sleep(600)"):
        script = tmp_path / "dies.py"
        script.write_text(code)
        monkeypatch.setattr(decoding, "_SCRIPT", script)
        monkeypatch.setattr(decoding, "_PATIENCE_S", 0.5)
        with pytest.raises(InputError, match="input.truncated"):
            read_ct(folder)
