"""What is no sound DICOM series is refused, each kind with its own code, from real files."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGLSLossless, RLELossless, SecondaryCaptureImageStorage

from pancreas_seg.errors import InputError
from pancreas_seg.io import read_ct
from tests.io.conftest import make_multi_frame, make_slices, save

Slices = list[Dataset]
Change = Callable[[Slices], object]


def _all(**values: object) -> Change:
    """Set attributes of all slices; None deletes."""

    def change(slices: Slices) -> None:
        for ds in slices:
            _set(ds, values)

    return change


def _one(k: int, **values: object) -> Change:
    return lambda slices: _set(slices[k], values)


def _set(ds: Dataset, values: dict[str, object]) -> None:
    for keyword, value in values.items():
        if value is None:
            del ds[keyword]
        else:
            setattr(ds, keyword, value)


def _moved(k: int, by: tuple[float, float, float]) -> Change:
    """Slice k somewhere else, in mm along rows, columns and normal."""

    def change(slices: Slices) -> None:
        row, column = np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3)
        there = np.array(slices[k].ImagePositionPatient, float) + np.array(by) @ [row, column, np.cross(row, column)]
        slices[k].ImagePositionPatient = [f"{v:.9g}" for v in there]

    return change


def _matrix(slices: Slices) -> None:
    slices[3].Rows, slices[3].Columns = 7, 10
    slices[3].PixelData = bytes(140)


def _turned(slices: Slices) -> None:
    axes = np.array(slices[2].ImageOrientationPatient, float)
    slices[2].ImageOrientationPatient = [f"{v:.9g}" for v in (*axes[3:], *-axes[:3])]


def _second_series(slices: Slices) -> None:
    _all(SeriesInstanceUID="1.2.3.5")([ds for ds in slices if ds.InstanceNumber % 2])


def _encrypted(slices: Slices) -> None:
    slices[1].EncryptedAttributesSequence = Sequence([Dataset()])
    del slices[1].ImagePositionPatient


def _compressed_frames(n: int) -> Change:
    def change(slices: Slices) -> None:
        slices[0].file_meta.TransferSyntaxUID = JPEGLSLossless
        slices[0].PixelData = encapsulate([b"\xff\xd8\xff\xd9"] * n) if n else b""
        slices[0]["PixelData"].VR = "OB"

    return change


def _video(slices: Slices) -> None:
    _compressed_frames(1)(slices)
    slices[0].file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"


CHANGED = {
    "a slice missing": (lambda s: s.pop(3), "input.missing_slices", "1 missing slice: 5.2 mm instead of 2.6"),
    "two slices missing": (lambda s: (s.pop(4), s.pop(1)), "input.missing_slices", "2 missing slices"),
    "a slice twice": (lambda s: s.append(s[2]), "input.duplicate_positions", "file 3 of 7 (instance or frame 3)"),
    "two at one place": (_moved(3, (0, 0, -2.6)), "input.duplicate_positions", "1 of 6 slices"),
    "a slice too near": (_moved(3, (0, 0, -1.2)), "input.uneven_spacing", "1.4 to 3.8 mm apart; file 4 of 6"),
    "a slice shifted": (_moved(3, (5, 0, 0)), "input.shifted_slices", "file 4 of 6 (instance or frame 4) is 5 mm"),
    "tilted": (lambda s: [_moved(k, (0, k * 0.5, 0))(s) for k in range(6)], "input.gantry_tilt", "10.89 degrees"),
    "one slice": (lambda s: s.__delitem__(slice(1, None)), "input.single_slice", "a single CT slice"),
    "two series": (
        lambda s: s.extend(make_slices(np.zeros((11, 8, 6), int), np.eye(4), "1.2.3.5")),
        "input.several_series",
        "2 CT series: 1.2.3.4 (6 slices, 11 x 8, 0.9 x 1.7 x 2.6 mm); 1.2.3.5 (6 slices, 11 x 8, 1 x 1 x 1 mm)",
    ),
    "series of three slices": (_second_series, "input.several_series", "2 CT series"),
    "two patients": (_one(3, PatientID="OTHER-ID"), "input.several_patients", "CT images of 2 patients"),
    "two names": (
        lambda s: (_all(PatientID="")(s), _one(3, PatientName="Planted^Other")(s)),
        "input.several_patients",
        "2 patients",
    ),
    "magnetic resonance": (_all(Modality="MR"), "input.not_ct", "6 DICOM files (6 MR images)"),
    "screenshots": (
        lambda s: (_all(SOPClassUID=SecondaryCaptureImageStorage)(s),),
        "input.not_ct",
        "6 secondary captures",
    ),
    "localizers": (_all(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "input.not_ct", "6 localizers"),
    "derived": (_all(ImageType=["DERIVED", "SECONDARY", "MPR"]), "input.derived_only", "series 1.2.3.4"),
    "no slope": (_one(2, RescaleSlope=None), "input.no_rescale", "file 3 of 6 (instance or frame 3)"),
    "no intercept": (_all(RescaleIntercept=""), "input.no_rescale", "without RescaleSlope or RescaleIntercept"),
    "slope of zero": (_one(0, RescaleSlope=0), "input.scale_invalid", "file 1 of 6"),
    "iodine map": (_all(RescaleType="MGML"), "input.not_hu", "RescaleType"),
    "a slice turned": (_turned, "input.mixed_orientation", "1 of 6 slices"),
    "a slice of another matrix": (_matrix, "input.mixed_matrix", "file 4 of 6"),
    "other pixels": (_one(5, PixelSpacing=[1.7, 0.95]), "input.mixed_spacing", "file 6 of 6"),
    "other frame of reference": (_one(4, FrameOfReferenceUID="1.2.8"), "input.mixed_frame_of_reference", "1 of 6"),
    "no position": (_one(1, ImagePositionPatient=None), "input.no_orientation", "without ImagePositionPatient"),
    "empty position": (_one(1, ImagePositionPatient=""), "input.no_orientation", "without ImagePositionPatient"),
    "two coordinates": (_one(1, ImagePositionPatient=[1, 2]), "input.header_invalid", "file 2 of 6"),
    "no orientation": (_all(ImageOrientationPatient=None), "input.no_orientation", "without ImageOrientationPatient"),
    "no direction": (_all(ImageOrientationPatient=[0] * 6), "input.affine_invalid", "lengths 0.000 and 0.000"),
    "oblique directions": (_all(ImageOrientationPatient=[1, 0, 0, 0.6, 0.8, 0]), "input.affine_invalid", "file 1"),
    "no pixel spacing": (_all(PixelSpacing=None), "input.no_orientation", "without PixelSpacing"),
    "pixel spacing of zero": (_all(PixelSpacing=[0, 1]), "input.spacing", "PixelSpacing of 0 x 1 mm"),
    "pixel spacing of a metre": (_all(PixelSpacing=[1000, 1000]), "input.spacing", "1000 x 1000 x 2.6 mm"),
    "encrypted attributes": (_encrypted, "input.encrypted", "file 2 of 6"),
    "no pixels": (_one(5, PixelData=None), "input.truncated", "file 6 of 6, a CT image without pixels"),
    "too few pixels": (_one(5, PixelData=bytes(100)), "input.truncated", "100 bytes of pixels; expected 176"),
    "no rows": (_one(0, Rows=0), "input.truncated", "without pixels"),
    "absurd matrix": (_all(Rows=65535, Columns=65535), "input.too_large", "65535 x 65535"),
    "absurd frames": (_one(0, NumberOfFrames=2**31 - 1), "input.truncated", "as its header says"),
    "large matrix": (_all(Rows=4096, Columns=4096), "input.truncated", "33554432, as its header says"),
    "colour": (_all(SamplesPerPixel=3), "input.not_scalar", "3 values of 16 bits"),
    "one bit": (_all(BitsAllocated=1), "input.not_scalar", "1 values of 1 bits"),
    "bits that cannot be": (_all(BitsStored=17), "input.truncated", "pixel data that cannot be decoded"),
    "high bit that cannot be": (_all(HighBit=3), "input.truncated", "pixel data that cannot be decoded"),
    "video": (_video, "input.transfer_syntax", "file 1 of 6"),
    "fewer frames than said": (
        lambda s: (_compressed_frames(2)(s), _one(0, NumberOfFrames=3)(s)),
        "input.truncated",
        "with 2 compressed frames; expected 3",
    ),
    "frames without places": (
        lambda s: (_one(0, NumberOfFrames=2)(s), _one(0, PixelData=bytes(352))(s)),
        "input.no_orientation",
        "2 frames, of which 0 say where they lie",
    ),
    "rubbish instead of frames": (_compressed_frames(1), "input.truncated", "pixel data that cannot be decoded"),
    "constant": (_all(PixelData=bytes(176)), "input.constant", "the value -1024"),
}


@pytest.mark.parametrize("kind", CHANGED)
def test_an_unsound_series_is_refused(slices, tmp_path, kind: str) -> None:
    change, code, found = CHANGED[kind]
    change(slices)
    with pytest.raises(InputError) as caught:
        read_ct(save(slices, tmp_path / "ct", "Planted_Name"))
    assert caught.value.code == code
    assert found in str(caught.value)
    assert str(tmp_path / "ct") in caught.value.where
    assert caught.value.advice
    assert "planted" not in str(caught.value).lower()
    assert "OTHER-ID" not in str(caught.value)


def _cut(share: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        os.truncate(path, int(path.stat().st_size * share))

    return damage


def _replace(old: bytes, new: bytes) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new, 1))

    return damage


ENVELOPE = bytes.fromhex("308204d206092a864886f70d010703a08204c3308204bf020100") + bytes(500)

DAMAGED = {
    "cut in the pixels": (_cut(0.95), "input.truncated"),
    "cut in the header": (_cut(0.5), "input.truncated"),
    "cut in the meta header": (lambda p: os.truncate(p, 140), "input.truncated"),
    "cut in the preamble": (lambda p: os.truncate(p, 50), "input.truncated"),
    "no bytes": (lambda p: os.truncate(p, 0), "input.truncated"),
    "a web page": (lambda p: p.write_text("<html>Log in first</html>" * 20), "input.truncated"),
    "an element longer than the file": (
        _replace(b"\x28\x00\x10\x00US\x02\x00", b"\x28\x00\x10\x00UN\0\0\xf0\xff\xff\xff"),
        "input.truncated",
    ),
    "a slope that is no number": (
        _replace(b"\x53\x10DS\x04\x001.0 ", b"\x53\x10DS\x04\x00one "),
        "input.header_invalid",
    ),
    "a value type that is none": (_replace(b"\x08\0\x60\0CS", b"\x08\0\x60\0C?"), "input.header_invalid"),
    "megabytes of zeros": (lambda p: p.write_bytes(p.read_bytes()[:700] + bytes(2**24)), "input.truncated"),
    "elements out of order": (_replace(b"\x28\0\x10\0US", b"\x08\0\x10\0US"), "input.truncated"),
    "an envelope": (lambda p: p.write_bytes(ENVELOPE), "input.encrypted"),
    "no permission": (lambda p: p.chmod(0), "input.unreadable"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_refused(slices, tmp_path, kind: str) -> None:
    damage, code = DAMAGED[kind]
    folder = tmp_path / "ct"
    save(slices, folder)
    for path in sorted(folder.iterdir()):
        path.rename(path.with_suffix(".dcm"))
    victim = folder / "IM003.dcm"
    damage(victim)
    if kind == "no permission" and os.access(victim, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(InputError) as caught:
        read_ct(folder)
    assert caught.value.code == code
    assert "file 4 of 6" in caught.value.found


def test_single_files_that_are_no_volume_are_refused(slices, tmp_path) -> None:
    folder = save(slices, tmp_path)
    with pytest.raises(InputError, match="the folder with all slices.*input.single_slice"):
        read_ct(folder / "IM000")
    (tmp_path / "secret").write_bytes(ENVELOPE)
    with pytest.raises(InputError, match="input.encrypted"):
        read_ct(tmp_path / "secret")


def test_a_folder_without_dicom_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="found no files.*input.no_dicom"):
        read_ct(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="no DICOM file among 1.*input.no_dicom"):
        read_ct(tmp_path)


def test_a_multi_frame_file_that_misses_frames_is_refused(oblique_volume, tmp_path) -> None:
    for code, change in {
        "input.missing_slices": lambda ds: None,
        "input.no_orientation": lambda ds: ds.PerFrameFunctionalGroupsSequence.pop(),
        "input.no_rescale": lambda ds: ds.SharedFunctionalGroupsSequence[0].pop("PixelValueTransformationSequence"),
        "input.truncated": lambda ds: setattr(ds, "PixelData", ds.PixelData[:-2]),
    }.items():
        ds = make_multi_frame(*oblique_volume, [0, 1, 2, 4, 5])
        change(ds)
        with pytest.raises(InputError) as caught:
            read_ct(save([ds], tmp_path))
        assert caught.value.code == code


def test_frames_that_hold_far_too_little_are_refused(oblique_volume, tmp_path) -> None:
    """600 frames of 4096 x 4096 in a few kB."""
    _, affine = oblique_volume
    hu = np.zeros((2, 2, 600), int)
    ds = make_multi_frame(hu, affine, list(range(600)))
    ds.Rows = ds.Columns = 4096
    ds.file_meta.TransferSyntaxUID = RLELossless
    ds.PixelData = encapsulate([bytes(64)] * 600)
    ds["PixelData"].VR = "OB"
    with pytest.raises(InputError, match="input.too_large"):
        read_ct(save([ds], tmp_path))


def test_a_deflated_bomb_is_refused(slices, tmp_path, monkeypatch) -> None:
    from pancreas_seg.io.dicom import header

    for ds in slices:
        ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    folder = save(slices, tmp_path / "ct")
    assert read_ct(folder).image.size
    content = (folder / "IM002").read_bytes()
    start = 144 + struct.unpack("<I", content[140:144])[0]
    packer = zlib.compressobj(9, wbits=-15)
    packed = packer.compress(zlib.decompress(content[start:], -15) + bytes(2**26)) + packer.flush()
    (folder / "IM002").write_bytes(content[:start] + packed)
    assert len(packed) < 70_000
    monkeypatch.setattr(header, "_LARGEST_INFLATED_BYTES", 2**25)
    with pytest.raises(InputError, match="file 3 of 6, DICOM that ends early or cannot be decoded"):
        read_ct(folder)


def _zip(path: Path, names: list[str], content: bytes = b"x" * 200) -> zipfile.ZipFile:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)
    return archive


@pytest.mark.parametrize(
    "name", ["../up", "a/../../up", "/root", "..\\up", "C:\\windows", "C:/windows"], ids=lambda name: name
)
def test_zip_members_outside_the_folder_are_refused(tmp_path, name: str) -> None:
    _zip(tmp_path / "ct.zip", ["fine", name])
    with pytest.raises(InputError, match="member 2 of 2, whose path.*input.zip_member_outside"):
        read_ct(tmp_path / "ct.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["ct.zip"]


def test_a_zip_member_without_a_name_is_a_file_as_others(tmp_path, slices, oblique_volume) -> None:
    folder, path = save(slices, tmp_path / "ct"), tmp_path / "ct.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.mkdir("x")
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    path.write_bytes(path.read_bytes().replace(b"x/", b"./"))
    np.testing.assert_array_equal(read_ct(path).image, oblique_volume[0])


def test_a_zip_member_that_claims_more_than_the_zip_has_is_refused_before_it_is_read(tmp_path, slices) -> None:
    folder, path = save(slices, tmp_path / "ct"), tmp_path / "ct.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02")
    content[start + 20 : start + 24] = struct.pack("<I", 0xEEFFFFFF)
    path.write_bytes(content)
    with pytest.raises(InputError, match="claims to be larger than the zip.*input.truncated"):
        read_ct(path)


def test_decompression_bombs_are_refused_before_they_unpack(tmp_path, slices) -> None:
    folder = save(slices, tmp_path / "ct")
    path = tmp_path / "ct.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "IM000", "a")
        archive.writestr("b", bytes(2**27))
    assert path.stat().st_size < 200_000
    with pytest.raises(InputError, match="claim to unpack to 134.*input.zip_bomb"):
        read_ct(path)


def test_a_member_that_is_longer_than_it_says_is_refused(tmp_path, slices) -> None:
    folder = save(slices, tmp_path / "ct")
    path = tmp_path / "ct.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", (folder / "IM000").read_bytes() + bytes(2**20))
    size = struct.pack("<I", (folder / "IM000").stat().st_size + 2**20)
    content = path.read_bytes()
    assert content.count(size) == 2
    path.write_bytes(content.replace(size, struct.pack("<I", 1000)))
    with pytest.raises(InputError, match="input.truncated"):
        read_ct(path)


def _flags(path: Path, offset: int, value: int) -> None:
    """Patch the first entry of a zip's central directory, and its local header (2 bytes earlier)."""
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02")
    content[start + offset : start + offset + 2] = struct.pack("<H", value)
    content[offset - 2 : offset] = struct.pack("<H", value)
    path.write_bytes(content)


ZIPS = {
    "password": (lambda p: _flags(p, 8, 1), "input.encrypted"),
    "unknown method": (lambda p: _flags(p, 10, 9), "input.zip_unsupported"),
    "cut": (lambda p: os.truncate(p, p.stat().st_size // 2), "input.truncated"),
    "empty": (lambda p: os.truncate(p, 0), "input.truncated"),
    "damaged": (_replace(b"Planted^Name", b"Planted^Nine"), "input.truncated"),
    "is no zip": (lambda p: p.write_bytes(b"no zip" * 100), "input.truncated"),
    "missing": (lambda p: p.unlink(), "input.unreadable"),
}


@pytest.mark.parametrize("kind", ZIPS)
def test_zips_that_cannot_be_read_are_refused(slices, tmp_path, kind: str) -> None:
    damage, code = ZIPS[kind]
    folder, path = save(slices, tmp_path / "ct"), tmp_path / "ct.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    damage(path)
    with pytest.raises(InputError) as caught:
        read_ct(path)
    assert caught.value.code == code


def test_a_link_in_a_zip_is_refused(tmp_path) -> None:
    link = zipfile.ZipInfo("a")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "ct.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="input.zip_unsupported"):
        read_ct(tmp_path / "ct.zip")


def test_padding_after_the_pixels_is_no_harm(slices, tmp_path) -> None:
    folder = save(slices, tmp_path / "ct")
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes() + bytes(2**20))
    assert read_ct(folder).image.shape == (11, 8, 6)


def test_too_many_and_too_large_files_are_refused(slices, tmp_path, monkeypatch) -> None:
    from pancreas_seg.io.dicom import files

    folder = save(slices, tmp_path / "ct")
    _zip(tmp_path / "ct.zip", list("abcdef"))
    monkeypatch.setattr(files, "_LARGEST_COUNT", 5)
    for path in (folder, tmp_path / "ct.zip"):
        with pytest.raises(InputError, match="more than 5 files.*input.too_many_files"):
            read_ct(path)
    monkeypatch.setattr(files, "_LARGEST_COUNT", 6)
    monkeypatch.setattr(files, "LARGEST_FILE_BYTES", 500)
    with pytest.raises(InputError, match="file 1 of 6 with .*input.too_large"):
        read_ct(folder)


def test_links_that_go_round_in_circles_end(slices, tmp_path) -> None:
    folder = save(slices, tmp_path / "ct")
    (folder / "again").symlink_to(folder, target_is_directory=True)
    assert read_ct(folder).image.shape == (11, 8, 6)


def test_mutated_files_are_read_or_refused(oblique_volume, tmp_path) -> None:
    """Never another error, and never another grid than the positions give; 200 files, seeded."""
    slices = make_slices(*oblique_volume)
    plain = read_ct(save(slices, tmp_path / "plain"))
    folder = save(slices, tmp_path / "ct")
    content = (folder / "IM002").read_bytes()
    outcomes = set()
    for seed in range(200):
        rng = np.random.default_rng(seed)
        mutated = bytearray(content)
        for at in rng.integers(0, len(content), rng.integers(1, 8)):
            mutated[at] = rng.integers(256)
        if seed % 4 == 0:
            at = int(rng.integers(len(content)))
            mutated[at : at + int(rng.integers(1, 60))] = rng.bytes(int(rng.integers(0, 60)))
        (folder / "IM002").write_bytes(mutated)
        try:
            scan = read_ct(folder)
        except InputError as error:
            outcomes.add(error.code)
        else:
            assert scan.geometry.same_grid(plain.geometry, 0.11)
            outcomes.add("read")
    assert {"read", "input.truncated"} < outcomes


def test_text_of_other_files_is_not_dicom(tmp_path, slices) -> None:
    folder = save(slices, tmp_path / "ct")
    stream = io.BytesIO()
    np.save(stream, np.zeros((30, 30), np.int16))
    (folder / "array").write_bytes(stream.getvalue())
    (folder / "zeros").write_bytes(b"\x08\0" + bytes(400))
    assert read_ct(folder).image.shape == (11, 8, 6)
