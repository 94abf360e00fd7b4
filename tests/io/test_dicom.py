from __future__ import annotations

import logging
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    SecondaryCaptureImageStorage,
)

from pancreas_seg.errors import InputError
from pancreas_seg.io import Scan, read_ct, read_series, write_mask
from pancreas_seg.io.dicom.shear import AIR_HU, shear_back
from pancreas_seg.io.dicom.stack import Stack
from tests.io.conftest import INTERCEPT, RAS_TO_LPS, ct_header, make_multi_frame, make_slices, place, save


def assert_same_volume(scan: Scan, hu: NDArray[np.integer], affine: NDArray[np.float64]) -> None:
    """The same values at the same places in the patient, in whatever order the axes are stored."""
    index = np.stack(np.meshgrid(*map(np.arange, scan.geometry.shape), indexing="ij"), -1)
    there = (scan.geometry.world(index) - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    nearest = np.rint(there).astype(int)
    np.testing.assert_allclose(there, nearest, atol=1e-4)
    assert nearest.min() == 0
    np.testing.assert_array_equal(nearest.max(axis=(0, 1, 2)) + 1, hu.shape)
    np.testing.assert_array_equal(scan.image, hu[tuple(np.moveaxis(nearest, -1, 0))])
    assert scan.image.size == hu.size


def test_all_48_axis_orders_and_directions_lie_where_they_should(oblique_volume, reorient, tmp_path) -> None:
    """In-plane axes and slice orders of every kind, with non-square pixels."""
    hu, affine = reorient(*oblique_volume)
    scan = read_ct(save(make_slices(hu, affine), tmp_path / "ct"))
    assert_same_volume(scan, *oblique_volume)
    # The slice axis is the last, and goes along the normal in LPS.
    assert scan.image.shape[:2] == hu.shape[:2]
    columns = RAS_TO_LPS @ scan.geometry.affine[:3, :3]
    assert np.linalg.det(columns) > 0
    np.testing.assert_allclose(
        np.abs(np.linalg.inv(affine[:3, :3]) @ scan.geometry.affine[:3, :3]), np.eye(3), atol=1e-6
    )


def test_volumes_agree_with_simpleitk(oblique_volume, reorient, tmp_path) -> None:
    hu, affine = reorient(*oblique_volume)
    scan = read_ct(save(make_slices(hu, affine), tmp_path / "ct"))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "ct")))
    image = reader.Execute()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).transpose(2, 1, 0), scan.image)
    for index in [(0, 0, 0), (1, 2, 3), tuple(n - 1 for n in scan.geometry.shape)]:
        lps = np.array(image.TransformContinuousIndexToPhysicalPoint([float(n) for n in index]))
        np.testing.assert_allclose(scan.geometry.world(index), lps * (-1, -1, 1), atol=1e-4)


def test_file_names_and_order_change_nothing(oblique_volume, slices, tmp_path) -> None:
    plain = read_ct(save(slices, tmp_path / "plain"))
    shuffled = [slices[n] for n in (4, 0, 3, 5, 1, 2)]
    folder = save(shuffled[:3], tmp_path / "other" / "A", "z")
    save(shuffled[3:], folder / "B" / "C", "a")
    (folder / "notes.txt").write_text("no image")
    (folder / "blob").write_bytes(bytes(range(256)))
    (folder / ".hidden").write_bytes((folder / "z000").read_bytes())
    scan = read_ct(tmp_path / "other")
    np.testing.assert_array_equal(scan.image, plain.image)
    np.testing.assert_array_equal(scan.geometry.affine, plain.geometry.affine)
    assert scan.sha256 == plain.sha256
    assert_same_volume(scan, *oblique_volume)


def test_the_hash_knows_each_slice_and_their_order(slices, tmp_path) -> None:
    first = read_ct(save(slices, tmp_path / "a")).sha256
    slices[2].PixelData = slices[2].PixelData[:-2] + b"\0\1"
    assert read_ct(save(slices, tmp_path / "b")).sha256 != first
    assert len(first) == 64


def test_slope_and_intercept_are_each_slices_own(oblique_volume, slices, tmp_path) -> None:
    hu = oblique_volume[0].astype(np.float32)
    for k, ds in enumerate(slices):
        ds.RescaleSlope, ds.RescaleIntercept = f"{0.5 + k}", f"{-100 * k}"
    scan = read_ct(save(slices, tmp_path / "ct"))
    for k in range(6):
        np.testing.assert_allclose(scan.image[:, :, k], (hu[:, :, k] - INTERCEPT) * (0.5 + k) - 100 * k)


@pytest.mark.parametrize(
    ("intercept", "kind"),
    [
        ("-1000", np.int16),
        ("-1000.5", np.float32),
        ("40000", np.float32),
        ("-40000", np.float32),
        ("32000", np.float32),
    ],
)
def test_whole_hu_take_16_bits_a_voxel(slices, tmp_path, intercept: str, kind: type) -> None:
    """The fourth slice alone has the intercept: those before it are already read when it turns out not to fit."""
    stored = [ds.pixel_array.T.astype(np.int64) for ds in slices]
    own = [int(ds.RescaleIntercept) for ds in slices]
    slices[3].RescaleIntercept = intercept
    scan = read_ct(save(slices, tmp_path / "ct"))
    assert scan.image.dtype == kind
    for k in range(6):
        np.testing.assert_array_equal(scan.image[:, :, k], stored[k] + (float(intercept) if k == 3 else own[k]))


@pytest.mark.parametrize(
    ("stored", "signed"), [(12, False), (16, False), (16, True), (12, True)], ids=["u12", "u16", "i16", "i12"]
)
def test_bits_above_the_stored_ones_count_for_nothing(slices, tmp_path, stored: int, signed: bool) -> None:
    """Old files have overlays there; signed numbers of 12 bits may lack their sign in the others."""
    low = -(2 ** (stored - 1)) if signed else 0
    values = np.linspace(low, low + 2**stored - 1, 88).round().astype(np.int64)
    raw = values & (2**stored - 1)
    for ds in slices:
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = stored, stored - 1, int(signed)
        ds.RescaleIntercept = 0
        ds.PixelData = (raw | (0x5000 if stored == 12 else 0)).astype("<u2").tobytes()
    scan = read_ct(save(slices, tmp_path / "ct"))
    np.testing.assert_array_equal(scan.image[:, :, 3].T.ravel(), values)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_every_plain_encoding_is_read(oblique_volume, slices, tmp_path, syntax) -> None:
    for ds in slices:
        ds.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
        ds["PixelData"].VR = "OW"
        ds._pixel_rep = 0
    assert_same_volume(read_ct(save(slices, tmp_path / "ct")), *oblique_volume)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_files_without_preamble_are_read(oblique_volume, slices, tmp_path, syntax) -> None:
    for ds in slices:
        ds["PixelData"].VR = "OW"
        del ds.file_meta
    (tmp_path / "ct").mkdir()
    for n, ds in enumerate(slices):
        implicit = syntax == ImplicitVRLittleEndian
        ds.save_as(tmp_path / "ct" / f"s{n}", implicit_vr=implicit, little_endian=True)
        assert (tmp_path / "ct" / f"s{n}").read_bytes()[:2] == b"\x08\0"
    assert_same_volume(read_ct(tmp_path / "ct"), *oblique_volume)


def test_empty_uids_are_accepted(oblique_volume, slices, tmp_path) -> None:
    for ds in slices:
        ds.SOPInstanceUID = ds.StudyInstanceUID = ds.SeriesInstanceUID = ds.SOPClassUID = ds.PatientID = ""
        ds.FrameOfReferenceUID = ""
    scan = read_ct(save(slices, tmp_path / "ct"))
    assert_same_volume(scan, *oblique_volume)
    assert scan.series is not None
    assert scan.series.uid == ""


def test_slice_thickness_is_not_the_spacing(slices, tmp_path, caplog, oblique_volume) -> None:
    for ds in slices:
        ds.SliceThickness = 5
    caplog.set_level(logging.INFO)
    assert_same_volume(read_ct(save(slices, tmp_path / "ct")), *oblique_volume)
    assert "SliceThickness is 5 mm, but slices lie 2.6 mm apart" in caplog.text


def test_positions_with_one_decimal_are_even_enough(slices, tmp_path) -> None:
    for ds in slices:
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.ImagePositionPatient = [0, 0, f"{1.25 * (ds.InstanceNumber - 1) + 0.01:.1f}"]
    assert read_ct(save(slices, tmp_path / "ct")).geometry.spacing_mm[2] == pytest.approx(1.25, abs=0.02)


def _localizer(**changes: object) -> Dataset:
    ds = ct_header(99, series="1.2.3.5")
    ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    ds.Rows = ds.Columns = 4
    ds.PixelData = bytes(32)
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds


def test_what_is_no_ct_slice_is_left_out_and_said(oblique_volume, slices, tmp_path, caplog) -> None:
    folder = save(slices, tmp_path / "ct")
    derived = make_slices(*oblique_volume, series="1.2.3.7")
    for ds in derived:
        ds.ImageType = ["DERIVED", "SECONDARY", "MPR"]
    others = {
        "localizer": _localizer(),
        "in the series": _localizer(SeriesInstanceUID="1.2.3.4"),
        "capture": _localizer(SOPClassUID=SecondaryCaptureImageStorage, ImageType=["DERIVED", "SECONDARY"]),
        "magnetic": _localizer(Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4"),
        "report": _localizer(Modality="SR", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11"),
        "DICOMDIR": _localizer(SOPClassUID=MediaStorageDirectoryStorage, Modality=""),
    }
    del others["report"].PixelData
    for name, ds in others.items():
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        save([ds], folder, name)
    save(derived, folder, "derived")
    caplog.set_level(logging.INFO)
    assert_same_volume(read_ct(folder), *oblique_volume)
    assert (
        "left out of 18 files: 1 DICOMDIR, 1 MR image, 6 deriveds, 2 localizers, 1 other object, 1 secondary capture"
        in caplog.text
    )
    assert "Planted" not in caplog.text


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize(
    ("keyword", "value"),
    [("SOPClassUID", "1.2.840.10008.5.1.4.1.1.2222"), ("SOPClassUID", "1.2..3"), ("Modality", "C"), ("Modality", "")],
)
def test_a_slice_that_only_its_damaged_class_calls_something_else_is_not_left_out(
    oblique_volume, slices, tmp_path, keyword: str, value: str
) -> None:
    setattr(slices[5], keyword, value)
    assert_same_volume(read_ct(save(slices, tmp_path / "ct")), *oblique_volume)


@pytest.mark.parametrize(
    "sop_class", ["1.3.12.2.1107.5.9.1", "1.2.840.10008.5.1.4.1.1.66"], ids=["private", "raw data"]
)
def test_objects_of_another_class_are_left_out(oblique_volume, slices, tmp_path, caplog, sop_class: str) -> None:
    folder = save(slices, tmp_path / "ct")
    save([_localizer(SOPClassUID=sop_class, SeriesInstanceUID="1.2.3.4")], folder, "own")
    caplog.set_level(logging.INFO)
    assert_same_volume(read_ct(folder), *oblique_volume)
    assert "left out of 7 files: 1 other object" in caplog.text


def test_images_derived_from_primary_ones_are_taken_if_alone(oblique_volume, slices, tmp_path, caplog) -> None:
    for ds in slices:
        ds.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
    assert_same_volume(read_ct(save(slices, tmp_path / "ct")), *oblique_volume)
    assert "no original CT images" in caplog.text


def test_a_series_is_chosen_by_its_uid(oblique_volume, slices, tmp_path, caplog) -> None:
    hu, affine = oblique_volume
    folder = save(slices, tmp_path / "ct")
    other = make_slices(hu - 7, affine, "1.2.3.5")
    save(other, folder, "b")
    with pytest.raises(InputError) as caught:
        read_ct(folder)
    assert caught.value.code == "input.several_series"
    assert "1.2.3.4 (6 slices, 11 x 8, 0.9 x 1.7 x 2.6 mm); 1.2.3.5 (6 slices" in caught.value.found
    assert "Planted" not in str(caught.value)
    assert_same_volume(read_ct(folder, series_uid="1.2.3.5"), hu - 7, affine)
    assert read_series(folder, "1.2.3.4").uid == "1.2.3.4"
    with pytest.raises(InputError, match="input.no_such_series"):
        read_ct(folder, series_uid="1.2.3")
    # A broken series beside the one that is asked for is none of its business; derived ones may be asked for.
    for ds in other:
        del ds.RescaleSlope
        ds.PatientID = "ANOTHER"
    save(other, folder, "b")
    assert_same_volume(read_ct(folder, series_uid="1.2.3.4"), hu, affine)
    for ds in slices:
        ds.ImageType = ["DERIVED", "SECONDARY", "MPR"]
    save(slices, folder)
    assert_same_volume(read_ct(folder, series_uid="1.2.3.4"), hu, affine)


def test_bolus_tracking_is_no_second_volume(oblique_volume, slices, tmp_path, caplog) -> None:
    tracking = make_slices(*oblique_volume, series="1.2.3.5")
    for ds in tracking:
        ds.ImagePositionPatient = tracking[0].ImagePositionPatient
    folder = save([*slices, *tracking], tmp_path / "ct")
    caplog.set_level(logging.INFO)
    assert_same_volume(read_ct(folder), *oblique_volume)
    assert "left out: 6 images of 1 other series that are no volume" in caplog.text


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 2, 0, 3, 1, 4]], ids=["in order", "shuffled"])
def test_a_multi_frame_file_is_read(oblique_volume, tmp_path, order: list[int]) -> None:
    ds = make_multi_frame(*oblique_volume, order)
    save([ds], tmp_path)
    scan = read_ct(tmp_path / "IM000")
    assert_same_volume(scan, *oblique_volume)
    assert scan.series is not None
    assert len(scan.series.headers()) == 1
    frames = [number for _, number in scan.series.frame_numbers]
    assert [order[number - 1] for number in frames] == [0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(read_ct(tmp_path).image, scan.image)


def test_headers_come_in_the_order_of_the_slices(slices, tmp_path) -> None:
    slices = [slices[n] for n in (4, 0, 3, 5, 1, 2)]
    for ds in slices:
        ds.InstanceNumber = 100 - ds.InstanceNumber
    folder = save(slices, tmp_path / "ct")
    archive = Path(shutil.make_archive(str(tmp_path / "ct"), "zip", folder))
    shutil.rmtree(folder)
    scan = read_ct(archive)
    archive.unlink()
    assert scan.series is not None
    assert scan.series.uid == "1.2.3.4"
    headers = scan.series.headers()
    assert len(headers) == 6
    for k, header in enumerate(headers):
        assert "PixelData" not in header
        place_ras = RAS_TO_LPS @ np.array(header.ImagePositionPatient, float)
        np.testing.assert_allclose(place_ras, scan.geometry.world((0, 0, k)), atol=1e-6)
    assert scan.series.frame_numbers == tuple((k, 1) for k in range(6))
    assert repr(scan.series) == "DicomSeries(6 files, 6 slices)"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_zip_is_read_without_unpacking(oblique_volume, slices, tmp_path, method: int) -> None:
    folder = save(slices, tmp_path / "ct")
    with zipfile.ZipFile(tmp_path / "ct.ZIP", "w", method) as archive:
        archive.mkdir("A")
        for n, path in enumerate(sorted(folder.iterdir(), reverse=True)):
            archive.write(path, f"A/B/{n}")
        archive.writestr("A/readme.txt", "no image")
        archive.writestr("__MACOSX/A/0", (folder / "IM000").read_bytes())
        archive.writestr("A/.DS_Store", b"DS")
    before = sorted(tmp_path.rglob("*"))
    scan = read_ct(tmp_path / "ct.ZIP")
    assert sorted(tmp_path.rglob("*")) == before
    assert_same_volume(scan, *oblique_volume)
    assert scan.sha256 == read_ct(folder).sha256


def test_a_mask_on_a_dicom_series_lies_on_its_grid(slices, tmp_path) -> None:
    scan = read_ct(save(slices, tmp_path / "ct"))
    mask = (scan.image > 100).astype(np.uint8)
    written = read_ct(write_mask(tmp_path / "mask.nii.gz", mask, scan))
    assert written.geometry.same_grid(scan.geometry, 1e-3)
    np.testing.assert_array_equal(written.image, mask)


def _tilted(hu, affine, degrees: float, axis: int = 1) -> tuple[list[Dataset], NDArray[np.float64]]:
    """Slices that are stacked off their normal, along an in-plane axis too, and their sheared affine."""
    sheared = affine.copy()
    unit = affine[:3, axis] / np.linalg.norm(affine[:3, axis])
    sheared[:3, 2] = affine[:3, 2] + unit * np.linalg.norm(affine[:3, 2]) * np.tan(np.deg2rad(degrees))
    slices = make_slices(hu, affine)
    for k, ds in enumerate(slices):
        place(ds, affine, k)
        ds.ImagePositionPatient = [f"{v:.9g}" for v in RAS_TO_LPS @ (sheared[:3, 3] + k * sheared[:3, 2])]
    return slices, sheared


@pytest.mark.parametrize(("degrees", "axis"), [(12.0, 1), (-12.0, 1), (20.0, 0), (-0.5, 1)])
def test_a_tilt_is_refused_or_sheared_back(oblique_volume, tmp_path, caplog, degrees: float, axis: int) -> None:
    """A CT that is linear in the patient's mm is what it was, wherever slices reach; the closed form of the shear."""
    _, affine = oblique_volume
    shape = (11, 8, 6)
    gradient = np.array([3.0, -2.0, 4.0])
    _, sheared = _tilted(np.zeros(shape, int), affine, degrees, axis)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    truth = (index @ sheared[:3, :3].T + sheared[:3, 3]) @ gradient
    # Twentieths of a HU in 16 bits.
    slices, _ = _tilted(np.rint(truth * 20).astype(int) + 20000 + INTERCEPT, affine, degrees, axis)
    for ds in slices:
        ds.BitsStored, ds.HighBit, ds.RescaleSlope, ds.RescaleIntercept = 16, 15, 0.05, -1000
    folder = save(slices, tmp_path / "ct")
    with pytest.raises(InputError) as caught:
        read_ct(folder)
    assert caught.value.code == "input.gantry_tilt"
    assert f"{abs(degrees):.2f} degrees" in caught.value.found

    caplog.set_level(logging.INFO)
    scan = read_ct(folder, allow_tilt=True)
    assert "sheared back" in caplog.text
    assert scan.series is not None
    assert scan.series.tilt_deg == pytest.approx(abs(degrees), abs=1e-3)
    np.testing.assert_allclose(scan.geometry.spacing_mm, (0.9, 1.7, 2.6), atol=1e-6)
    at = np.stack(np.meshgrid(*map(np.arange, scan.geometry.shape), indexing="ij"), -1)
    world = scan.geometry.world(at)
    source = (world - sheared[:3, 3]) @ np.linalg.inv(sheared[:3, :3]).T
    inside = ((source > -1e-4) & (source < np.array(shape) - 1 + 1e-4)).all(axis=-1)
    assert inside.sum() > 300
    np.testing.assert_allclose(scan.image[inside], (world @ gradient)[inside], atol=0.05)
    assert (scan.image[~inside] == AIR_HU).all()
    # Nothing is lost: each slice keeps all voxels, but for the one that interpolating between two takes.
    per_slice = inside.sum(axis=(0, 1))
    assert per_slice[0] == 88
    assert per_slice.min() >= (77 if axis == 1 else 80)


def test_shearing_back_does_not_overflow_16_bits() -> None:
    hu = np.where(np.indices((8, 6, 4)).sum(axis=0) % 2, 32000, -1000).astype(np.int16)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[0, 2] = 0.5
    tilted = cast(Stack, SimpleNamespace(affine=affine))
    np.testing.assert_array_equal(shear_back(hu, tilted)[0], shear_back(hu.astype(np.float32), tilted)[0])


def test_whole_voxels_of_tilt_move_values_unchanged(oblique_volume, tmp_path) -> None:
    hu, affine = oblique_volume
    degrees = np.rad2deg(np.arctan(2 * 1.7 / 2.6))
    slices, _ = _tilted(hu, affine, degrees)
    scan = read_ct(save(slices, tmp_path / "ct"), allow_tilt=True)
    assert scan.geometry.shape == (11, 8 + 10, 6)
    for k in range(6):
        np.testing.assert_array_equal(scan.image[:, 2 * k : 2 * k + 8, k], hu[:, :, k])
