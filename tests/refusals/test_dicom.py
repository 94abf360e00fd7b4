"""Kinds of bad DICOM as folders, zips and files, each through `segment`: a code, exit code 3, a verdict, and no mask.

What the reader says of each kind in detail is tested with the reader.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
)

from pancreas_seg.cli import main
from tests.io.conftest import make_multi_frame, make_slices, save
from tests.refusals.conftest import refused

PLANTED = ("planted", "other^patient", "other-id")
AFFINE = np.array([[0.8, 0, 0, -12], [0, 0.9, 0, 30], [0, 0, 2.5, 100], [0, 0, 0, 1.0]])
SHAPE = (12, 10, 8)
ENVELOPE = bytes.fromhex("308204d206092a864886f70d010703a08204c3308204bf020100") + bytes(500)
Slices = list[Dataset]


def hu() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)


def all_with(**values: object) -> Callable[[Slices], None]:
    """Set attributes of all slices; None deletes."""

    def change_all(slices: Slices) -> None:
        for ds in slices:
            change(**values)(ds)

    return change_all


def one_with(**values: object) -> Callable[[Slices], None]:
    return lambda slices: change(**values)(slices[3])


def change(**values: object) -> Callable[[Dataset], None]:
    def set_values(ds: Dataset) -> None:
        for keyword, value in values.items():
            if value is None:
                del ds[keyword]
            else:
                setattr(ds, keyword, value)

    return set_values


def moved(k: int, by_mm: tuple[float, float, float]) -> Callable[[Slices], None]:
    """Slice k elsewhere, in LPS."""

    def move(slices: Slices) -> None:
        there = np.array(slices[k].ImagePositionPatient, float) + by_mm
        slices[k].ImagePositionPatient = [f"{v:.6f}" for v in there]

    return move


def tilted(slices: Slices) -> None:
    for k in range(len(slices)):
        moved(k, (0, 0.6 * k, 0))(slices)


def compressed(syntax: str, frame: bytes) -> Callable[[Slices], None]:
    """Slice 3 with bytes that stand for its compressed pixels."""

    def compress(slices: Slices) -> None:
        slices[3].file_meta.TransferSyntaxUID = syntax
        slices[3].PixelData = encapsulate([frame])
        slices[3]["PixelData"].VR = "OB"

    return compress


def other_bits(slices: Slices) -> None:
    slices[3].compress(JPEGLSLossless, generate_instance_uid=False)
    slices[3].BitsStored = 7


def odd_matrix(slices: Slices) -> None:
    slices[3].Rows, slices[3].PixelData = 9, slices[3].PixelData[: 9 * 12 * 2]


def second_series(slices: Slices) -> None:
    slices += make_slices(hu(), AFFINE, "1.2.3.5")


def encrypted(slices: Slices) -> None:
    change(EncryptedAttributesSequence=Sequence([Dataset()]), ImagePositionPatient=None)(slices[3])


SERIES: dict[str, tuple[Callable[[Slices], object], str]] = {
    "a slice missing": (lambda s: s.pop(3), "input.missing_slices"),
    "every other slice missing but two": (lambda s: [s.pop(k) for k in (6, 4)], "input.missing_slices"),
    "a slice twice": (lambda s: s.append(s[2]), "input.duplicate_positions"),
    "two phases in a series": (lambda s: s.extend(make_slices(hu(), AFFINE)), "input.duplicate_positions"),
    "a slice too near": (moved(3, (0, 0, 1.0)), "input.uneven_spacing"),
    "a slice shifted": (moved(3, (4, 0, 0)), "input.shifted_slices"),
    "a tilted gantry": (tilted, "input.gantry_tilt"),
    "one slice": (lambda s: s.__delitem__(slice(1, None)), "input.single_slice"),
    "two series": (second_series, "input.several_series"),
    "two patients": (one_with(PatientID="OTHER-ID"), "input.several_patients"),
    "magnetic resonance": (all_with(Modality="MR", SOPClassUID=MRImageStorage), "input.not_ct"),
    "screenshots": (all_with(SOPClassUID=SecondaryCaptureImageStorage), "input.not_ct"),
    "a structure set": (all_with(Modality="RTSTRUCT", SOPClassUID=RTStructureSetStorage), "input.not_ct"),
    "localizers": (all_with(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "input.not_ct"),
    "a reformat": (all_with(ImageType=["DERIVED", "SECONDARY", "MPR"]), "input.derived_only"),
    "no slope": (one_with(RescaleSlope=None), "input.no_rescale"),
    "an empty intercept": (all_with(RescaleIntercept=""), "input.no_rescale"),
    "a slope of zero": (one_with(RescaleSlope=0), "input.scale_invalid"),
    "an iodine map": (all_with(RescaleType="MGML"), "input.not_hu"),
    "a slice turned": (one_with(ImageOrientationPatient=[0, 1, 0, -1, 0, 0]), "input.mixed_orientation"),
    "a slice of another matrix": (odd_matrix, "input.mixed_matrix"),
    "a slice of other pixels": (one_with(PixelSpacing=[1.0, 0.8]), "input.mixed_spacing"),
    "two frames of reference": (one_with(FrameOfReferenceUID="1.2.8"), "input.mixed_frame_of_reference"),
    "no position": (one_with(ImagePositionPatient=None), "input.no_orientation"),
    "no orientation": (all_with(ImageOrientationPatient=None), "input.no_orientation"),
    "two coordinates": (one_with(ImagePositionPatient=[1, 2]), "input.header_invalid"),
    "an orientation of zeros": (all_with(ImageOrientationPatient=[0] * 6), "input.affine_invalid"),
    "no pixel spacing": (all_with(PixelSpacing=None), "input.no_orientation"),
    "pixels of no size": (all_with(PixelSpacing=[0, 0]), "input.spacing"),
    "pixels of a metre": (all_with(PixelSpacing=[1000, 1000]), "input.spacing"),
    "100 km away": (
        lambda s: [moved(k, (1e8, 0, 0))(s) for k in range(8)],
        "input.position",
    ),
    "encrypted attributes": (encrypted, "input.encrypted"),
    "no pixels": (one_with(PixelData=None), "input.truncated"),
    "too few pixels": (one_with(PixelData=bytes(100)), "input.truncated"),
    "an absurd matrix": (all_with(Rows=65535, Columns=65535), "input.too_large"),
    "absurdly many frames": (one_with(NumberOfFrames=2**31 - 1), "input.truncated"),
    "colour": (all_with(SamplesPerPixel=3, PhotometricInterpretation="RGB"), "input.not_scalar"),
    "single bits": (all_with(BitsAllocated=1), "input.not_scalar"),
    "more bits than there are": (all_with(BitsStored=17), "input.truncated"),
    "video": (compressed("1.2.840.10008.1.2.4.100", b"\0\0\1\xb3" * 9), "input.transfer_syntax"),
    "pixels on a server": (compressed("1.2.840.10008.1.2.4.94", b"http://localhost/"), "input.transfer_syntax"),
    "JPEG-LS that is none": (compressed(JPEGLSLossless, b"\xff\xd8\xff\xd9"), "input.truncated"),
    "JPEG 2000 that is none": (compressed(JPEG2000Lossless, bytes(40)), "input.truncated"),
    "JPEG-LS of other bits than it says": (other_bits, "input.truncated"),
    "RLE that is none": (compressed(RLELossless, bytes(64)), "input.truncated"),
    "the same value everywhere": (all_with(PixelData=bytes(240)), "input.constant"),
}


def _cut(share: float) -> Callable[[Path], object]:
    return lambda path: os.truncate(path, int(path.stat().st_size * share))


def _rubbish(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[400:700] = np.random.default_rng(0).bytes(300)
    path.write_bytes(content)


def _deflated_rubbish(path: Path) -> None:
    content = path.read_bytes()
    old = b"1.2.840.10008.1.2.1\0"
    assert content.count(old) == 1
    path.write_bytes(content.replace(b"\x14\0" + old, b"\x16\0" + DeflatedExplicitVRLittleEndian.encode()))


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut in the pixels": (_cut(0.95), "input.truncated"),
    "cut in the header": (_cut(0.5), "input.truncated"),
    "cut to nothing": (_cut(0.0), "input.truncated"),
    "rubbish in the header": (_rubbish, "input.truncated"),
    "zeros behind half a header": (lambda p: p.write_bytes(p.read_bytes()[:500] + bytes(2**22)), "input.truncated"),
    "30 GB": (lambda p: os.truncate(p, 30 * 10**9), "input.too_large"),
    "a web page": (lambda p: p.write_text("<html>Log in first</html>" * 20), "input.truncated"),
    "an encrypted envelope": (lambda p: p.write_bytes(ENVELOPE), "input.encrypted"),
    "said to be deflated": (_deflated_rubbish, "input.truncated"),
}
"""What is done to the fourth of the files."""


def check(path: Path, code: str, weights: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = refused(path, weights, out, capsys)
    assert facts["reasons"][0]["code"] == code  # type: ignore[index]
    assert not any(name in str(facts).lower() for name in PLANTED)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", SERIES)
def test_a_bad_series_is_refused(kind: str, weights, tmp_path, capsys) -> None:
    spoil, code = SERIES[kind]
    slices = make_slices(hu(), AFFINE)
    spoil(slices)
    check(save(slices, tmp_path / "ct"), code, weights, tmp_path / "out", capsys)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_refused(kind: str, weights, tmp_path, capsys) -> None:
    spoil, code = DAMAGED[kind]
    folder = save(make_slices(hu(), AFFINE), tmp_path / "ct")
    victim = (folder / "IM003").rename(folder / "IM003.dcm")
    spoil(victim)
    check(folder, code, weights, tmp_path / "out", capsys)


def _zipped(path: Path, **more: bytes) -> None:
    folder = save(make_slices(hu(), AFFINE), path.parent / "series")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
        for name, content in more.items():
            archive.writestr(name, content)


def _zip_with_link(path: Path) -> None:
    link = zipfile.ZipInfo("a")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, "/etc/passwd")


def _zip_cut(path: Path) -> None:
    _zipped(path)
    os.truncate(path, path.stat().st_size // 2)


def _zip_damaged(path: Path) -> None:
    _zipped(path)
    content = bytearray(path.read_bytes())
    content[600] ^= 0xFF
    path.write_bytes(content)


def _multi_frame(spoil: Callable[[Dataset], object]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        ds = make_multi_frame(hu(), AFFINE, list(range(8)))
        spoil(ds)
        ds.save_as(path, enforce_file_format=True)

    return write


def _lone_slice(path: Path) -> None:
    make_slices(hu(), AFFINE)[0].save_as(path, enforce_file_format=True)


def _texts(path: Path) -> None:
    path.mkdir()
    (path / "letter.txt").write_text("Dear colleague,\n")


PATHS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "an empty folder": ("ct", Path.mkdir, "input.no_dicom"),
    "a folder of texts": ("ct", _texts, "input.no_dicom"),
    "a slice by itself": ("ct.dcm", _lone_slice, "input.single_slice"),
    "an encrypted file": ("ct.dcm", lambda p: p.write_bytes(ENVELOPE), "input.encrypted"),
    "text renamed": ("ct.dcm", lambda p: p.write_text("Dear colleague,\n" * 40), "input.unknown_format"),
    "preamble and prefix alone": ("ct.dcm", lambda p: p.write_bytes(bytes(128) + b"DICM"), "input.truncated"),
    "frames cut off": (
        "ct.dcm",
        _multi_frame(lambda ds: setattr(ds, "PixelData", ds.PixelData[:-2])),
        "input.truncated",
    ),
    "a frame without its place": (
        "ct.dcm",
        _multi_frame(lambda ds: ds.PerFrameFunctionalGroupsSequence.pop()),
        "input.no_orientation",
    ),
    "frames without places": (
        "ct.dcm",
        _multi_frame(change(PerFrameFunctionalGroupsSequence=None)),
        "input.no_orientation",
    ),
    "a zip cut off": ("ct.zip", _zip_cut, "input.truncated"),
    "a zip with a changed byte": ("ct.zip", _zip_damaged, "input.truncated"),
    "a zip of nothing": ("ct.zip", lambda p: zipfile.ZipFile(p, "w").close(), "input.no_dicom"),
    "text as a zip": ("ct.zip", lambda p: p.write_text("Dear colleague,\n" * 40), "input.truncated"),
    "a zip that leads out": ("ct.zip", lambda p: _zipped(p, **{"../../up": b"x"}), "input.zip_member_outside"),
    "a zip with a link": ("ct.zip", _zip_with_link, "input.zip_unsupported"),
    "a zip of 256 MB of zeros": ("ct.zip", lambda p: _zipped(p, more=bytes(2**28)), "input.zip_bomb"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", PATHS)
def test_a_bad_path_is_refused(kind: str, weights, tmp_path, capsys) -> None:
    name, make, code = PATHS[kind]
    path = tmp_path / name
    make(path)
    check(path, code, weights, tmp_path / "out", capsys)


def test_a_series_that_is_not_there_is_refused(weights, tmp_path, capsys) -> None:
    folder = save(make_slices(hu(), AFFINE), tmp_path / "ct")
    out = tmp_path / "out"
    assert main(["segment", str(folder), "--weights", str(weights), "--out", str(out), "--series", "9.9"]) == 3
    assert "input.no_such_series" in (out / "summary.csv").read_text()
    assert not (out / "ct" / "mask.nii.gz").exists()


def test_dicom_output_is_refused_before_a_mask_is_made(weights, tmp_path) -> None:
    """Images that DICOM output cannot refer to are sound otherwise: without it, they are segmented."""
    slices = make_slices(hu(), AFFINE)
    for ds in slices:
        ds.StudyInstanceUID = ""
    folder = save(slices, tmp_path / "ct")
    command = ["segment", str(folder), "--weights", str(weights), "--out"]
    assert main([*command, str(tmp_path / "a"), "--dicom-seg"]) == 3
    assert "input.dicom_incomplete" in (tmp_path / "a" / "summary.csv").read_text()
    assert not (tmp_path / "a" / "ct" / "mask.nii.gz").exists()
    assert main([*command, str(tmp_path / "b")]) == 0
    assert (tmp_path / "b" / "ct" / "mask.nii.gz").is_file()


def test_the_series_is_sound_unless_it_is_spoilt(weights, tmp_path) -> None:
    folder = save(make_slices(hu(), AFFINE), tmp_path / "ct")
    make_multi_frame(hu(), AFFINE, list(range(8))).save_as(tmp_path / "frames.dcm", enforce_file_format=True)
    _zipped(tmp_path / "zipped.zip")
    for path in (folder, tmp_path / "frames.dcm", tmp_path / "zipped.zip"):
        assert main(["segment", str(path), "--weights", str(weights), "--out", str(tmp_path / "out")]) == 0
    for case in ("ct", "frames", "zipped"):
        assert (tmp_path / "out" / case / "mask.nii.gz").is_file()


def test_at_least_25_kinds() -> None:
    assert len(SERIES) + len(DAMAGED) + len(PATHS) >= 25
    assert len({code for _, code in (*SERIES.values(), *DAMAGED.values())}) >= 20
