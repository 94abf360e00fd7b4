from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from pancreas_seg.geometry import Geometry
from pancreas_seg.io import read_ct, read_mask, replacing, write_image, write_mask


def _same_place(a: sitk.Image, b: sitk.Image) -> None:
    assert a.GetSize() == b.GetSize()
    np.testing.assert_allclose(a.GetOrigin(), b.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(a.GetSpacing(), b.GetSpacing(), atol=1e-5)
    np.testing.assert_allclose(a.GetDirection(), b.GetDirection(), atol=1e-5)


def test_header_is_kept_bit_for_bit(tmp_path, oblique_volume, reorient) -> None:
    array, affine = reorient(*oblique_volume)
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=4)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"DOE^JANE 1970"
    image.header["db_name"] = b"DOE^JANE"
    nib.save(image, tmp_path / "ct.nii.gz")
    scan = read_ct(tmp_path / "ct.nii.gz")
    path = write_mask(tmp_path / "mask.nii.gz", scan.image > 0, scan)
    before, after = nib.load(tmp_path / "ct.nii.gz"), nib.load(path)
    assert after.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(before.affine, after.affine)
    for field in ("qform_code", "sform_code", "xyzt_units", "pixdim", "srow_x", "srow_y", "srow_z", "qoffset_x"):
        np.testing.assert_array_equal(before.header[field], after.header[field])
    assert after.header["sform_code"] == 4
    np.testing.assert_array_equal(np.asarray(after.dataobj), array > 0)
    assert b"DOE" not in after.header.binaryblock
    ct, mask = sitk.ReadImage(str(tmp_path / "ct.nii.gz")), sitk.ReadImage(str(path))
    _same_place(ct, mask)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), sitk.GetArrayFromImage(ct) > 0)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_what_simpleitk_wrote_comes_back_in_place(tmp_path, oblique_volume, reorient, suffix: str) -> None:
    array, affine = reorient(*oblique_volume)
    lps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, :3]
    spacing = np.linalg.norm(lps, axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin((affine[:3, 3] * (-1, -1, 1)).tolist())
    image.SetDirection((lps / spacing).ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / f"ct{suffix}"))
    scan = read_ct(tmp_path / f"ct{suffix}")
    assert scan.geometry.same_grid(Geometry(array.shape, affine), tolerance_mm=1e-3)
    for out in (".nii.gz", suffix):
        mask = sitk.ReadImage(str(write_mask(tmp_path / f"mask{out}", scan.image > 0, scan)))
        _same_place(image, mask)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), array.transpose(2, 1, 0) > 0)


def test_qform_only_and_big_endian_and_nifti_2(tmp_path) -> None:
    array = np.random.default_rng(0).integers(0, 9, (4, 5, 6)).astype(np.int16)
    for kind, endian in [(nib.Nifti1Image, ">"), (nib.Nifti2Image, "<"), (nib.Nifti2Image, ">")]:
        image = kind(array, None, kind.header_class(endianness=endian))
        image.set_qform(np.diag([-1.0, 2.0, 3.0, 1.0]), code=2)
        image.set_sform(None, code=0)
        nib.save(image, tmp_path / "ct.nii")
        scan = read_ct(tmp_path / "ct.nii")
        after = nib.load(write_mask(tmp_path / "mask.nii.gz", scan.image > 4, scan))
        assert type(after) is kind
        assert (after.header["qform_code"], after.header["sform_code"]) == (2, 0)
        np.testing.assert_array_equal(after.affine, nib.load(tmp_path / "ct.nii").affine)
        np.testing.assert_array_equal(np.asarray(after.dataobj), array > 4)


def test_same_mask_gives_the_same_bytes(tmp_path, write_nifti) -> None:
    scan = read_ct(write_nifti(np.arange(210).reshape(5, 6, 7).astype(np.int16)))
    first = write_mask(tmp_path / "a.nii.gz", scan.image > 9, scan, "x").read_bytes()
    assert first == write_mask(tmp_path / "b.nii.gz", scan.image > 9, scan, "x").read_bytes()


def test_wrong_masks_are_not_written(tmp_path) -> None:
    grid = Geometry((4, 5, 6), np.eye(4))
    for bad in (np.full((4, 5, 6), 0.5), np.full((4, 5, 6), 300), np.full((4, 5, 6), -1), np.zeros((4, 5, 7))):
        with pytest.raises(ValueError, match="labels|shape"):
            write_mask(tmp_path / "mask.nii.gz", bad, grid)
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path) -> None:
    path = tmp_path / "mask.nii.gz"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_masks_come_back(tmp_path, suffix: str) -> None:
    grid = Geometry((4, 5, 6), np.diag([-0.7, -0.8, 2.5, 1.0]))
    labels = np.random.default_rng(0).integers(0, 3, grid.shape)
    mask = read_mask(write_mask(tmp_path / f"mask{suffix}", labels, grid))
    np.testing.assert_array_equal(mask.labels, labels)
    assert mask.geometry.same_grid(grid, 1e-4)


def test_several_volumes_with_a_scale(tmp_path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 2)).astype(np.uint8)
    geometry = Geometry((5, 4, 3), np.diag([1.0, 2.0, 3.0, 1.0]))
    image = nib.load(write_image(tmp_path / "a.nii.gz", values, geometry, scale=1 / 255))
    np.testing.assert_allclose(image.get_fdata(), values / 255, atol=1e-6)
    np.testing.assert_array_equal(image.affine, geometry.affine)
    assert image.header.get_zooms() == (1.0, 2.0, 3.0, 1.0)
    for bad in (values[..., None], values[:4]):
        with pytest.raises(ValueError, match="does not lie on a grid"):
            write_image(tmp_path / "b.nii.gz", bad, geometry)
    for array, scale in ((values, 1.0), (values[..., 0], 0.5)):
        with pytest.raises(ValueError, match=r"need \.nii"):
            write_image(tmp_path / "b.nrrd", array, geometry, scale=scale)
