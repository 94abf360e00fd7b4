"""DICOM series of real CTs: volumes as SimpleITK reads them, and machine-made labels that fall on the right HU."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread

from pancreas_seg.errors import InputError
from pancreas_seg.io import read_ct, read_mask
from pancreas_seg.resampling import resample

pytestmark = pytest.mark.real_data

SERIES = {"cb001": 79, "totalseg_dicom": 20, "c3l00189": 35}


@pytest.fixture(params=SERIES)
def folder(request, real_data: Path) -> Path:
    return real_data / request.param / "dicom"


def _copies(folder: Path, to: Path) -> list[Path]:
    """Writable copies under names in random order."""
    to.mkdir()
    paths = sorted(folder.iterdir())
    names = [f"{n:03d}.bin" for n in range(len(paths))]
    names = [names[n] for n in np.random.default_rng(0).permutation(len(names))]
    for path, name in zip(paths, names, strict=True):
        shutil.copyfile(path, to / name)
    return sorted(to.iterdir())


def test_the_volume_agrees_with_simpleitk(folder: Path) -> None:
    scan = read_ct(folder)
    assert scan.geometry.shape == (512, 512, SERIES[folder.parent.name])
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(image).transpose(2, 1, 0), scan.image)
    for index in scan.geometry.index(scan.geometry.corners_mm()).round():
        lps = np.array(image.TransformContinuousIndexToPhysicalPoint(index.tolist()))
        np.testing.assert_allclose(scan.geometry.world(index), lps * (-1, -1, 1), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "mean_hu"),
    [
        ("totalseg_dicom", {7: 61, 5: 89, 1: 80}),
        ("cb001", {}),
        ("c3l00189", {}),
    ],
)
def test_machine_labels_fall_on_the_organs(real_data: Path, name: str, mean_hu: dict[int, int]) -> None:
    scan = read_ct(real_data / name / "dicom")
    labels = read_mask(real_data / name / "organs_machine.nii.gz")
    on_scan = resample(labels.labels, labels.geometry, scan.geometry, "nearest")
    for value, expected in mean_hu.items():
        assert scan.image[on_scan == value].mean() == pytest.approx(expected, abs=0.5)
    if not mean_hu:
        # Soft tissue with contrast: liver (6), spleen (1) and pancreas (2).
        for value in (6, 1, 2):
            assert 40 < np.median(scan.image[on_scan == value]) < 200


def test_names_do_not_matter_and_what_is_wrong_is_found(folder: Path, tmp_path) -> None:
    paths = _copies(folder, tmp_path / "ct")
    original, scan = read_ct(folder), read_ct(tmp_path / "ct")
    np.testing.assert_array_equal(scan.image, original.image)
    np.testing.assert_array_equal(scan.geometry.affine, original.geometry.affine)
    assert scan.sha256 == original.sha256

    order = sorted(paths, key=lambda p: dcmread(p, stop_before_pixels=True).ImagePositionPatient[2])
    inner = order[len(order) // 2]
    shutil.move(inner, tmp_path / "aside")
    with pytest.raises(InputError, match="1 missing slice: .*input.missing_slices"):
        read_ct(tmp_path / "ct")
    shutil.copyfile(tmp_path / "aside", inner)
    shutil.copyfile(tmp_path / "aside", tmp_path / "ct" / "again")
    with pytest.raises(InputError, match="input.duplicate_positions"):
        read_ct(tmp_path / "ct")
    (tmp_path / "ct" / "again").unlink()

    localizer = dcmread(inner)
    localizer.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    localizer.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    localizer.save_as(tmp_path / "ct" / "localizer")
    assert read_ct(tmp_path / "ct").sha256 == original.sha256

    for n, path in enumerate(order[:8]):
        other = dcmread(path)
        other.SeriesInstanceUID = "1.2.3"
        other.save_as(tmp_path / "ct" / f"other{n}")
    with pytest.raises(InputError, match=r"2 CT series: .*1\.2\.3 \(8 slices, 512 x 512.*input.several_series"):
        read_ct(tmp_path / "ct")
    assert read_ct(tmp_path / "ct", series_uid="1.2.3").geometry.shape == (512, 512, 8)
    assert scan.series is not None
    assert read_ct(tmp_path / "ct", series_uid=scan.series.uid).sha256 == original.sha256
