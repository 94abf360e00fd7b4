from __future__ import annotations

import gzip
import os

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from pancreas_seg.errors import InputError
from pancreas_seg.io import read_ct, read_mask

SHAPE = (5, 6, 7)


def _hu() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", ">i2", ">f4", ">f8"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_every_number_type_is_read(write_nifti, dtype: str, suffix: str) -> None:
    array = np.random.default_rng(0).integers(0, 100, SHAPE).astype(dtype)
    path = write_nifti(array, name=f"ct{suffix}")
    if dtype.startswith(">"):
        image = nib.Nifti1Image(array, np.diag([2.0, 2, 3, 1]), nib.Nifti1Header(endianness=">"))
        image.set_data_dtype(array.dtype)
        image.set_sform(image.affine, code=1)
        nib.save(image, path)
    scan = read_ct(path)
    assert scan.image.dtype == (np.int16 if array.dtype.kind in "iu" else np.float32)
    np.testing.assert_array_equal(scan.image, array.astype(np.float32))


def test_whole_numbers_beyond_16_bits_stay_exact(write_nifti) -> None:
    array = _hu().astype(np.int32)
    array[0, 0, 0] = 70_000
    scan = read_ct(write_nifti(array))
    assert scan.image.dtype == np.float32
    np.testing.assert_array_equal(scan.image, array)


@pytest.mark.parametrize(("slope", "inter"), [(1.0, -1024.0), (2.0, 0.0), (0.5, 10.0)])
def test_scale_is_applied_once(write_nifti, slope: float, inter: float) -> None:
    path = write_nifti(_hu(), name="ct.nii")
    raw = bytearray(path.read_bytes())
    raw[112:120] = np.array([slope, inter], "<f4").tobytes()
    path.write_bytes(raw)
    np.testing.assert_allclose(read_ct(path).image, _hu() * slope + inter)
    np.testing.assert_allclose(read_ct(path).image, nib.load(path).get_fdata())


def test_a_slope_of_zero_means_no_scale(write_nifti) -> None:
    path = write_nifti(_hu(), name="ct.nii")
    raw = bytearray(path.read_bytes())
    raw[112:120] = np.array([0.0, 99.0], "<f4").tobytes()
    path.write_bytes(raw)
    np.testing.assert_array_equal(read_ct(path).image, _hu())


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_nrrd_and_mha_lie_where_simpleitk_says(tmp_path, suffix: str) -> None:
    image = sitk.GetImageFromArray(_hu().transpose(2, 1, 0))
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-10.0, 20.0, 30.0))
    image.SetDirection((0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
    path = tmp_path / f"ct{suffix}"
    sitk.WriteImage(image, str(path), useCompression=True)
    scan = read_ct(path)
    np.testing.assert_array_equal(scan.image, _hu())
    for index in [(0, 0, 0), (4, 5, 6), (1, 2, 3)]:
        lps = np.array(image.TransformIndexToPhysicalPoint(index))
        np.testing.assert_allclose(scan.geometry.world(index), lps * (-1, -1, 1), atol=1e-9)


def test_nifti_2_is_read(tmp_path) -> None:
    image = nib.Nifti2Image(_hu(), np.diag([2.0, 2, 3, 1]))
    image.set_sform(image.affine, code=1)
    nib.save(image, tmp_path / "ct.nii.gz")
    np.testing.assert_array_equal(read_ct(tmp_path / "ct.nii.gz").image, _hu())


def test_a_single_volume_in_four_dimensions_is_read(write_nifti) -> None:
    path = write_nifti(_hu()[..., None])
    assert read_ct(path).geometry.shape == SHAPE


def _patched(path, offset: int, value: np.ndarray):
    raw = bytearray(path.read_bytes())
    raw[offset : offset + value.nbytes] = value.tobytes()
    path.write_bytes(raw)
    return path


def _forms_disagree(write):
    path = write(_hu(), name="ct.nii")
    return _patched(path, 280 + 12, np.array([2.0], "<f4") + 3)  # srow_x's offset


def _rgb(write):
    array = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    return write(array)


def _sheared(write):
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[0, 1] = 0.3
    path = write(_hu(), name="ct.nii")
    _patched(path, 252, np.array([0, 1], "<i2"))
    return _patched(path, 280, affine[:3].astype("<f4"))


def _singular(write):
    path = write(_hu(), name="ct.nii")
    _patched(path, 252, np.array([0, 1], "<i2"))
    return _patched(path, 280, np.zeros((3, 4), "<f4"))


def _nan(write):
    array = _hu().astype(np.float32)
    array[1, 2, 3] = np.nan
    return write(array)


def _truncated(write, share: float, name: str):
    path = write(_hu(), name=name)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def _damaged_gzip(write):
    path = write(_hu())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    return path


def _bomb(write):
    path = write(_hu(), name="ct.nii")
    _patched(path, 40, np.array([3, 30000, 30000, 30000], "<i2"))
    packed = path.with_suffix(".nii.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return packed


REFUSED = {
    "forms disagree": (_forms_disagree, "input.forms_disagree"),
    "no form": (lambda w: w(_hu(), codes=(0, 0)), "input.no_orientation"),
    "four dimensions": (lambda w: w(np.stack([_hu(), _hu()], -1)), "input.not_3d"),
    "two dimensions": (lambda w: w(_hu()[..., 0]), "input.not_3d"),
    "rgb": (_rgb, "input.not_scalar"),
    "complex": (lambda w: w(_hu().astype(np.complex64)), "input.not_scalar"),
    "nan": (_nan, "input.not_finite"),
    "infinite": (lambda w: w(np.where(_hu() > 900, np.inf, _hu()).astype(np.float32)), "input.not_finite"),
    "constant": (lambda w: w(np.zeros(SHAPE, np.int16)), "input.constant"),
    "no bytes": (lambda w: _truncated(w, 0, "ct.nii"), "input.empty_file"),
    "half a header": (lambda w: _truncated(w, 0.3, "ct.nii"), "input.truncated"),
    "half the voxels": (lambda w: _truncated(w, 0.8, "ct.nii"), "input.truncated"),
    "half the gzip": (lambda w: _truncated(w, 0.5, "ct.nii.gz"), "input.truncated"),
    "damaged gzip": (_damaged_gzip, "input.truncated"),
    "no nifti": (lambda w: _patched(w(_hu(), name="ct.nii"), 0, np.arange(8.0)), "input.not_nifti"),
    "pair header": (lambda w: _patched(w(_hu(), name="ct.nii"), 344, np.array(b"ni1")), "input.not_nifti"),
    "zero dimension": (
        lambda w: _patched(w(_hu(), name="ct.nii"), 42, np.array([0], "<i2")),
        "input.empty",
    ),
    "sheared": (_sheared, "input.affine_sheared"),
    "singular": (_singular, "input.affine_singular"),
    "metres": (lambda w: _patched(w(_hu(), name="ct.nii"), 123, np.array([1], "u1")), "input.units"),
    "bad scale": (
        lambda w: _patched(w(_hu(), name="ct.nii"), 112, np.array([np.inf, 0], "<f4")),
        "input.scale_invalid",
    ),
    "bad quaternion": (
        lambda w: _patched(w(_hu(), name="ct.nii", codes=(1, 0)), 256, np.array([3, 3, 3], "<f4")),
        "input.affine_invalid",
    ),
    "unknown datatype": (lambda w: _patched(w(_hu(), name="ct.nii"), 70, np.array([3], "<i2")), "input.not_scalar"),
    "spacing of 1 m": (lambda w: w(_hu(), np.diag([1000.0, 1000, 1000, 1])), "input.spacing"),
    "header claims 54 TB": (_bomb, "input.too_large"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_unsound_nifti_is_refused(write_nifti, kind: str) -> None:
    make, code = REFUSED[kind]
    path = make(write_nifti)
    with pytest.raises(InputError) as caught:
        read_ct(path)
    assert caught.value.code == code
    assert str(path) in caught.value.where
    assert caught.value.advice


def _sitk_file(path, array: np.ndarray, vector: bool = False, packed: bool = False):
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=vector), str(path), useCompression=packed)
    return path


def _cut_at(path, share: float):
    os.truncate(path, int(path.stat().st_size * share))
    return path


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda p: _sitk_file(p, np.zeros((4, 5, 6, 3), np.uint8), vector=True), "input.not_scalar"),
        (lambda p: _sitk_file(p, np.zeros((2, 4, 5, 6), np.int16)), "input.not_3d"),
        (lambda p: _sitk_file(p, np.zeros((5, 6), np.int16)), "input.not_3d"),
        (lambda p: _sitk_file(p, np.zeros((5, 6, 7), np.int16)), "input.constant"),
        (lambda p: _cut_at(_sitk_file(p, _hu()), 0.7), "input.truncated"),
        (lambda p: _cut_at(_sitk_file(p, _hu(), packed=True), 0.7), "input.truncated"),
        (lambda p: _cut_at(_sitk_file(p, _hu(), packed=True), 0.98), "input.truncated"),
        (lambda p: _cut_at(_sitk_file(p, _hu()), 0.07), "input.truncated"),
        (lambda p: p.write_bytes(b"no image at all") and p, "input.truncated"),
    ],
    ids=["vector", "4d", "2d", "constant", "short", "packed short", "packed end cut", "header cut", "text"],
)
def test_unsound_nrrd_and_mha_are_refused(tmp_path, suffix: str, make, code: str, capfd) -> None:
    path = make(tmp_path / f"ct{suffix}")
    with pytest.raises(InputError) as caught:
        read_ct(path)
    assert caught.value.code == code
    assert str(tmp_path) not in capfd.readouterr().err


def _mha(path, packed: bool = False) -> bytes:
    big = np.random.default_rng(0).integers(-1000, 1000, (20, 30, 40)).astype(np.int16)
    return _sitk_file(path, big, packed=packed).read_bytes()


@pytest.mark.parametrize("field", [b"ElementSpacing", b"TransformMatrix", b"Offset", b"DimSize", b"NDims"])
def test_an_mha_that_does_not_say_where_it_lies_is_refused(tmp_path, field: bytes) -> None:
    path = tmp_path / "ct.mha"
    content = _mha(path)
    path.write_bytes(content.replace(field, b"X" + field[1:], 1))
    with pytest.raises(InputError, match="input.no_orientation|input.truncated"):
        read_ct(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"NDims = 3", b"NDims = 93"),
        (b"DimSize = 40 30 20", b"DimSize = 40 30 -2"),
        (b"Offset = 0 0 0", b"Offset = 0 0 0\nOffset = 9 9 9"),
    ],
)
def test_an_mha_with_a_senseless_header_is_refused(tmp_path, old: bytes, new: bytes) -> None:
    path = tmp_path / "ct.mha"
    content = _mha(path)
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    with pytest.raises(InputError, match="input.truncated"):
        read_ct(path)


@pytest.mark.parametrize("place", [0.0, 0.2, 0.5, 0.8, 0.999])
def test_a_damaged_compressed_mha_is_refused(tmp_path, place: float) -> None:
    path = tmp_path / "ct.mha"
    content = bytearray(_mha(path, packed=True))
    start = content.index(b"LOCAL\n") + 6
    at = start + int((len(content) - start) * place)
    content[at : at + 8] = bytes(b ^ 0x5A for b in content[at : at + 8])
    path.write_bytes(content)
    with pytest.raises(InputError, match="input.truncated"):
        read_ct(path)


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (b"space: left-posterior-superior", b"space: scanner-xyz", "input.no_orientation"),
        (b"space directions:", b"spice directions:", "input.no_orientation"),
        (b"space origin:", b"spice origin:", "input.no_orientation"),
        (b"space origin:", b'space units: "m" "m" "m"\nspace origin:', "input.units"),
    ],
)
def test_an_nrrd_that_does_not_say_where_it_lies_is_refused(tmp_path, old: bytes, new: bytes, code: str) -> None:
    path = _sitk_file(tmp_path / "ct.nrrd", _hu())
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    with pytest.raises(InputError, match=code):
        read_ct(path)


def test_nrrd_without_space_is_refused(tmp_path) -> None:
    path = tmp_path / "ct.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(_hu()), str(path))
    content = path.read_bytes()
    head, data = content.split(b"\n\n", 1)
    kept = [line for line in head.split(b"\n") if not line.startswith((b"space", b"kinds"))]
    kept.insert(-1, b"spacings: 1 1 1")
    path.write_bytes(b"\n".join(kept) + b"\n\n" + data)
    with pytest.raises(InputError, match="input.no_orientation"):
        read_ct(path)


@pytest.mark.parametrize(
    ("name", "code"),
    [("missing.nii.gz", "input.unreadable"), ("ct.jpg", "input.unknown_format"), (".", "input.no_dicom")],
)
def test_other_paths_are_refused(tmp_path, name: str, code: str) -> None:
    (tmp_path / "ct.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match=code):
        read_ct(tmp_path / name)


def test_masks_hold_whole_numbers(write_nifti) -> None:
    labels = np.random.default_rng(0).integers(0, 4, SHAPE)
    assert read_mask(write_nifti(labels.astype(np.float32))).labels.dtype == np.uint8
    np.testing.assert_array_equal(read_mask(write_nifti(labels.astype(np.float64))).labels, labels)
    for bad in (labels - 1, labels + 0.25, labels * 60000, np.where(labels == 1, np.nan, labels)):
        with pytest.raises(InputError, match="input.not_labels"):
            read_mask(write_nifti(np.asarray(bad, dtype=np.float64)))
