"""The drawn patient: anatomy, HU, sampling, and the files of a cohort."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from pancreas_seg.data.phantom import LABELS, Phantom, draw_phantom, write_cohort
from pancreas_seg.io import read_ct, read_mask
from pancreas_seg.resampling import resample

LABEL_OF = {name: label for label, name in LABELS.items()}
COARSE = (4.0, 4.0, 4.0)
VERY_COARSE = (6.0, 6.0, 6.0)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return draw_phantom(7)


@pytest.fixture(scope="module")
def coarse() -> list[Phantom]:
    """Seeds 0 to 4 have each course of the pancreas."""
    return [draw_phantom(seed, COARSE) for seed in range(5)]


def mask(phantom: Phantom, name: str) -> NDArray[np.bool_]:
    return phantom.labels == LABEL_OF[name]


def points(phantom: Phantom, name: str) -> NDArray[np.float64]:
    return phantom.geometry.world(np.argwhere(mask(phantom, name)))


def centre(phantom: Phantom, name: str) -> NDArray[np.float64]:
    return points(phantom, name).mean(axis=0)


def volume_ml(phantom: Phantom, name: str) -> float:
    return float(mask(phantom, name).sum()) * phantom.geometry.voxel_ml


def inner_mean(phantom: Phantom, name: str, steps: int = 1) -> float:
    return float(phantom.hu[ndimage.binary_erosion(mask(phantom, name), iterations=steps)].mean())


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return 2.0 * float((a & b).sum()) / float(a.sum() + b.sum())


def test_same_arguments_give_the_same_bytes(coarse: list[Phantom]) -> None:
    again = draw_phantom((3,), COARSE)
    assert again.hu.tobytes() == coarse[3].hu.tobytes()
    assert again.labels.tobytes() == coarse[3].labels.tobytes()
    assert again.geometry.distance_mm(coarse[3].geometry) == 0
    for other in coarse[:3]:
        assert other.hu.shape != again.hu.shape or (other.labels != again.labels).any()


def test_arrays_have_the_promised_types_and_size(phantom: Phantom) -> None:
    assert phantom.hu.dtype == np.int16
    assert phantom.labels.dtype == np.uint8
    assert phantom.hu.shape == phantom.labels.shape == phantom.geometry.shape
    assert phantom.geometry.orientation == "LPS"
    assert phantom.geometry.spacing_mm == pytest.approx((2.0, 2.0, 3.0))
    assert phantom.hu.min() >= -1024
    assert phantom.hu.max() <= 3071
    width, depth, height = np.multiply(phantom.geometry.shape, phantom.geometry.spacing_mm)
    assert 335 < width < 405
    assert 255 < depth < 325
    assert 195 < height < 305


def test_every_label_is_there(phantom: Phantom, coarse: list[Phantom]) -> None:
    for each in (phantom, *coarse):
        assert set(np.unique(each.labels)) == {0, *LABELS}


def test_pancreas_is_one_piece_of_normal_size_inside_the_image(phantom: Phantom, coarse: list[Phantom]) -> None:
    volumes = []
    for each in (phantom, *coarse):
        pancreas = mask(each, "pancreas")
        assert ndimage.label(pancreas)[1] == 1
        index = np.argwhere(pancreas)
        assert (index.min(axis=0) > 0).all()
        assert (index.max(axis=0) < np.array(pancreas.shape) - 1).all()
        volumes.append(volume_ml(each, "pancreas"))
    assert min(volumes) > 35
    assert max(volumes) < 115
    assert np.std(volumes) > 5


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("liver", 900, 2400), ("spleen", 70, 380), ("kidney_left", 65, 230), ("kidney_right", 65, 230)],
)
def test_organs_have_a_normal_size(coarse: list[Phantom], name: str, low: float, high: float) -> None:
    for each in coarse:
        assert low < volume_ml(each, name) < high


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("pancreas", 80, 130),
        ("liver", 90, 130),
        ("spleen", 110, 150),
        ("kidney_left", 150, 220),
        ("kidney_right", 150, 220),
        ("gallbladder", -5, 25),
        ("aorta", 140, 200),
        ("inferior_vena_cava", 115, 170),
        ("portal_and_splenic_vein", 145, 195),
        ("superior_mesenteric_vein", 145, 195),
        ("bone", 120, 500),
        ("lung", -900, -750),
    ],
)
def test_organs_have_the_hu_of_a_portal_venous_scan(phantom: Phantom, name: str, low: float, high: float) -> None:
    assert low < inner_mean(phantom, name) < high


def test_air_fat_and_muscle_are_there(phantom: Phantom) -> None:
    background = phantom.hu[phantom.labels == 0]
    assert (background < -950).mean() > 0.1
    fat = background[(background > -140) & (background < -60)]
    assert fat.size / background.size > 0.1
    assert -112 < np.median(fat) < -80
    muscle = background[(background > 20) & (background < 100)]
    assert muscle.size / background.size > 0.1
    assert 48 < np.median(muscle) < 68


def test_organs_lie_where_they_belong(coarse: list[Phantom], phantom: Phantom) -> None:
    for each in (phantom, *coarse):
        bone, pancreas = centre(each, "bone"), centre(each, "pancreas")
        right, anterior, superior = 0, 1, 2
        for name in ("liver", "gallbladder", "kidney_right", "duodenum", "inferior_vena_cava"):
            assert centre(each, name)[right] > bone[right] + 5, name
        for name in ("spleen", "stomach", "kidney_left", "aorta"):
            assert centre(each, name)[right] < bone[right] - 2, name
        assert pancreas[anterior] > bone[anterior] + 20
        assert centre(each, "spleen")[right] < pancreas[right] < centre(each, "gallbladder")[right]
        assert centre(each, "lung")[superior] > pancreas[superior] + 50
        assert centre(each, "kidney_left")[anterior] < pancreas[anterior]


def test_pancreas_runs_from_the_duodenum_to_the_spleen_along_its_vein(phantom: Phantom) -> None:
    pancreas = points(phantom, "pancreas")
    x = pancreas[:, 0]
    head, tail = pancreas[x > np.quantile(x, 0.85)], pancreas[x < np.quantile(x, 0.15)]
    body = pancreas[(x > np.quantile(x, 0.3)) & (x < np.quantile(x, 0.5))]
    assert head[:, 0].mean() > tail[:, 0].mean() + 60
    assert head[:, 1].mean() > tail[:, 1].mean()

    def gap_mm(part: NDArray[np.float64], name: str) -> float:
        other = points(phantom, name)
        return float(min(np.linalg.norm(other - p, axis=1).min() for p in part[::5]))

    assert gap_mm(head, "duodenum") < 12
    assert gap_mm(body, "portal_and_splenic_vein") < 10
    assert gap_mm(tail, "spleen") < 35


def test_neck_lies_in_front_of_the_portal_confluence(coarse: list[Phantom]) -> None:
    for each in coarse:
        pancreas, vein = points(each, "pancreas"), points(each, "superior_mesenteric_vein")
        top = vein[vein[:, 2] > vein[:, 2].max() - 8].mean(axis=0)
        near = pancreas[np.linalg.norm((pancreas - top)[:, [0, 2]], axis=1) < 10]
        assert len(near) > 0
        assert near[:, 1].max() > top[1]


def test_gas_lies_at_the_front_of_the_stomach(coarse: list[Phantom]) -> None:
    for each in coarse:
        stomach = mask(each, "stomach")
        gas = stomach & (each.hu < -500)
        if gas.sum() < 20:
            continue
        fluid = stomach & (each.hu > -20)
        anterior = each.geometry.world(np.argwhere(gas))[:, 1].mean()
        assert anterior > each.geometry.world(np.argwhere(fluid))[:, 1].mean()


@pytest.mark.parametrize(("spacing", "orientation"), [((3.0, 2.5, 2.5), "SAR"), ((3.0, 2.5, 3.0), "ILA")])
def test_patient_does_not_depend_on_the_grid(
    phantom: Phantom, spacing: tuple[float, float, float], orientation: str
) -> None:
    other = draw_phantom(7, spacing, orientation)
    assert other.geometry.orientation == orientation
    assert other.geometry.spacing_mm == pytest.approx(spacing)
    labels = resample(other.labels, other.geometry, phantom.geometry, "nearest")
    hu = resample(other.hu, other.geometry, phantom.geometry, "linear", fill=-1000)
    for name in ("pancreas", "liver", "kidney_left", "spleen"):
        assert dice(labels == LABEL_OF[name], mask(phantom, name)) > 0.85, name
    pancreas = mask(phantom, "pancreas")
    assert abs(hu[pancreas].mean() - phantom.hu[pancreas].mean()) < 8


def test_flipped_grid_holds_the_same_voxels(coarse: list[Phantom]) -> None:
    lps, ras = coarse[0], draw_phantom(0, COARSE, "RAS")
    np.testing.assert_array_equal(ras.labels, lps.labels[::-1, ::-1])
    np.testing.assert_array_equal(ras.hu, lps.hu[::-1, ::-1])
    assert ras.geometry.orientation == "RAS"
    i, j, _ = lps.hu.shape
    np.testing.assert_allclose(ras.geometry.world([5, 9, 2]), lps.geometry.world([i - 6, j - 10, 2]), atol=1e-6)


def test_extent_cuts_a_block_around_the_pancreas(phantom: Phantom) -> None:
    extent = (200.0, 130.0, 150.0)
    block = draw_phantom(7, extent_mm=extent)
    assert np.multiply(block.geometry.shape, block.geometry.spacing_mm) == pytest.approx(extent, abs=3.0)
    assert volume_ml(block, "pancreas") == pytest.approx(volume_ml(phantom, "pancreas"), rel=0.03)
    assert np.linalg.norm(centre(block, "pancreas") - centre(phantom, "pancreas")) < 1.0


def test_borders_are_blurred_between_fat_and_organ(phantom: Phantom) -> None:
    spleen = mask(phantom, "spleen")
    rim = ndimage.binary_dilation(spleen) & ~ndimage.binary_erosion(spleen)
    between = (phantom.hu[rim] > -40) & (phantom.hu[rim] < 60)
    assert between.mean() > 0.15
    inside = phantom.hu[ndimage.binary_erosion(spleen, iterations=2)]
    assert ((inside > -40) & (inside < 60)).mean() < 0.02


def test_noise_is_that_of_a_scanner(phantom: Phantom) -> None:
    inside = phantom.hu[ndimage.binary_erosion(mask(phantom, "spleen"), iterations=2)]
    assert 6 < inside.std() < 30


@pytest.mark.parametrize("orientation", ["LP", "LRS", "XYZ", "LPSS", ""])
def test_wrong_orientation_is_refused(orientation: str) -> None:
    with pytest.raises(ValueError, match="one letter of each pair"):
        draw_phantom(0, COARSE, orientation)


def test_wrong_spacing_and_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not above 0"):
        draw_phantom(0, (2.0, 0.0, 3.0))
    with pytest.raises(ValueError, match="at least 1"):
        write_cohort(tmp_path, 0, 1)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifest of three patients."""
    seen: list[tuple[int, int]] = []
    out = tmp_path_factory.mktemp("phantoms") / "cohort"
    path = write_cohort(out, 3, 11, VERY_COARSE, folds=2, progress=lambda i, n: seen.append((i, n)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert path == out / "manifest.json"
    return path


def test_cohort_files_agree_with_the_manifest(cohort: Path) -> None:
    manifest = json.loads(cohort.read_text())
    assert manifest["licence"] == "CC0-1.0"
    assert manifest["labels"] == {"0": "background"} | {str(k): v for k, v in LABELS.items()}
    assert manifest["numTraining"] == len(manifest["training"]) == 3
    assert [entry["fold"] for entry in manifest["training"]] == [0, 1, 0]
    assert [entry["case_id"] for entry in manifest["training"]] == ["phantom_0000", "phantom_0001", "phantom_0002"]
    for entry in manifest["training"]:
        for kind in ("image", "label"):
            file = cohort.parent / entry[kind]
            assert hashlib.sha256(file.read_bytes()).hexdigest() == entry[f"{kind}_sha256"]
            _check_file(file, np.int16 if kind == "image" else np.uint8)
    files = {str(p.relative_to(cohort.parent)) for p in cohort.parent.rglob("*") if p.is_file()}
    named = {str(Path(entry[kind])) for entry in manifest["training"] for kind in ("image", "label")}
    assert files == named | {"manifest.json"}


def test_cohort_files_hold_the_drawn_patient(cohort: Path) -> None:
    drawn = draw_phantom((11, 0), VERY_COARSE)
    entry = json.loads(cohort.read_text())["training"][0]
    image, label = read_ct(cohort.parent / entry["image"]), read_mask(cohort.parent / entry["label"])
    np.testing.assert_array_equal(image.image, drawn.hu)
    np.testing.assert_array_equal(label.labels, drawn.labels)
    for geometry in (image.geometry, label.geometry):
        assert geometry.distance_mm(drawn.geometry) < 1e-3


def _check_file(file: Path, dtype: type) -> None:
    image = nib.load(file)
    assert image.get_data_dtype() == dtype
    assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (1, 1)
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)
    assert image.header.get_xyzt_units()[0] == "mm"
    other = sitk.ReadImage(str(file))
    array = np.asanyarray(image.dataobj)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(other).T, array)
    for index in ((0, 0, 0), (3, 5, 7), tuple(n - 1 for n in array.shape)):
        ras = (image.affine @ (*index, 1))[:3]
        lps = np.array(other.TransformIndexToPhysicalPoint([int(i) for i in index]))
        np.testing.assert_allclose(ras, lps * (-1, -1, 1), atol=1e-2)


def test_cohort_is_the_same_when_written_again(cohort: Path, tmp_path: Path) -> None:
    again = write_cohort(tmp_path, 1, 11, VERY_COARSE, folds=2)
    # The checksums are among what is compared.
    assert json.loads(again.read_text())["training"] == json.loads(cohort.read_text())["training"][:1]
