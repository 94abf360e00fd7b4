"""The whole of segment with a network whose right answer is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

from pancreas_seg.config import Config
from pancreas_seg.inference.segmenter import Segmenter
from pancreas_seg.io import read_ct
from tests.conftest import ANY_ORGAN

SPACING = (0.9, 1.7, 2.6)
_RAW = {"keep_fraction": 0.0, "fill_holes": False, "minimum_volume_ml": 0.0}


def _config(spacing=SPACING, dims: int = 3, **sections) -> Config:
    size = [8, 8, 8][:dims]
    tree = {
        "network": {"spatial_dims": dims},
        "data": {"spacing_mm": list(spacing), "patch_size": size},
        "infer": {"precision": "fp32"},
        "clean": _RAW,
        "verdict": ANY_ORGAN,
    }
    return Config().changed(tree).changed(sections)


@pytest.mark.parametrize("dims", [2, 3])
def test_identity_on_all_orientations(write_nifti, tmp_path, oblique_volume, reorient, threshold_network, dims) -> None:
    """On a model grid with the input's spacing, thresholding must give exactly the voxels above the threshold."""
    array, affine = reorient(*oblique_volume)
    path = write_nifti(array, affine)
    result = Segmenter(threshold_network, _config(dims=dims)).segment(read_ct(path))
    np.testing.assert_array_equal(result.mask, array > 40)
    result.save(tmp_path / "out")
    ct, mask = sitk.ReadImage(str(path)), sitk.ReadImage(str(tmp_path / "out" / "mask.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), sitk.GetArrayFromImage(ct) > 40)
    np.testing.assert_allclose(ct.GetOrigin(), mask.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(ct.GetDirection(), mask.GetDirection(), atol=1e-5)
    np.testing.assert_allclose(ct.GetSpacing(), mask.GetSpacing(), atol=1e-5)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_identity_through_other_formats(tmp_path, oblique_volume, threshold_network, suffix: str) -> None:
    array, affine = oblique_volume
    lps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, :3] / SPACING
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing(SPACING)
    image.SetOrigin((affine[:3, 3] * (-1, -1, 1)).tolist())
    image.SetDirection(lps.ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / f"ct{suffix}"))
    result = Segmenter(threshold_network, _config()).segment(read_ct(tmp_path / f"ct{suffix}"))
    result.save(tmp_path)
    mask = sitk.ReadImage(str(tmp_path / "mask.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), array.transpose(2, 1, 0) > 40)
    np.testing.assert_allclose(mask.GetOrigin(), image.GetOrigin(), atol=1e-4)


def test_another_model_grid_keeps_the_place(write_nifti, reorient, threshold_network) -> None:
    """A ball at a known place, segmented on a coarser grid, stays at that place with its volume."""
    index = np.stack(np.meshgrid(*map(range, (40, 30, 24)), indexing="ij"), -1)
    centre = np.array([17.3, 13.1, 12.2])
    ball = (((index - centre) * (1.5, 2.0, 2.5)) ** 2).sum(-1) < 15**2
    affine = np.diag([1.5, 2.0, 2.5, 1.0])
    array, affine = reorient(np.where(ball, 240, -160).astype(np.int16), affine)
    scan = read_ct(write_nifti(array, affine))
    result = Segmenter(threshold_network, _config((2.2, 2.2, 3.1))).segment(scan)
    found = scan.geometry.world(np.argwhere(result.mask)).mean(0)
    np.testing.assert_allclose(found, centre * (1.5, 2.0, 2.5), atol=0.35)
    assert result.volume_ml["pancreas"] == pytest.approx(4 / 3 * np.pi * 1.5**3, rel=0.06)
    overlap = 2 * (result.mask & (array > 0)).sum() / (result.mask.sum() + (array > 0).sum())
    assert overlap > 0.93


def test_facts_of_the_result(write_nifti, tmp_path, threshold_network) -> None:
    array = np.full((10, 12, 8), -900, np.int16)
    array[2:6, 3:9, 2:5] = 100
    array[2, 3, 2] = 172
    path = write_nifti(array, np.diag([-2.0, -2.0, 3.0, 1.0]))
    segmenter = Segmenter(threshold_network, _config((2.0, 2.0, 3.0)), weights_sha256="ab" * 32)
    result = segmenter.segment(read_ct(path), probability=True)
    written = result.save(tmp_path / "out")
    assert [p.name for p in written] == ["mask.nii.gz", "probability.nii.gz", "result.json"]
    facts = json.loads((tmp_path / "out" / "result.json").read_text())
    assert facts["verdict"] == "ok"
    assert facts["volume_ml"] == {"pancreas": pytest.approx(72 * 0.012)}
    assert facts["mean_hu"] == {"pancreas": pytest.approx(101.0)}
    assert facts["bounding_box_ras_mm"] == [[-11.0, -17.0, 4.5], [-3.0, -5.0, 13.5]]
    assert facts["input"]["shape"] == [10, 12, 8]
    assert facts["input"]["orientation"] == "LPS"
    assert len(facts["input"]["sha256"]) == 64
    assert facts["weights"]["sha256"] == "ab" * 32
    assert facts["config_fingerprint"] == segmenter.config.fingerprint()
    assert "medical device" in facts["note"]
    assert set(facts["timings_s"]) >= {"preprocess", "network", "restore", "clean", "write"}
    assert facts["versions"]["torch"]
    probability = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "probability.nii.gz")))
    np.testing.assert_allclose(probability, array.transpose(2, 1, 0) > 0, atol=1e-4)


def test_context_classes_are_left_out_of_the_mask(write_nifti) -> None:
    import torch
    from torch import nn

    class ByValue(nn.Module):
        """Class 1 at 0.25, class 2 at 0.5, class 3 at 0.75, background at 0."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([-1e4 * (x - level) ** 2 for level in (0.0, 0.25, 0.5, 0.75)], dim=1)

    array = np.full((8, 8, 8), -160, np.int16)
    array[1:3], array[3:5], array[5:7] = -60, 40, 140
    data = {"spacing_mm": [2.0, 2.0, 3.0], "patch_size": [8, 8, 8], "classes": ["pancreas", "liver", "spleen"]}
    base = Config().changed({"data": data, "clean": _RAW, "infer": {"precision": "fp32"}})
    scan = read_ct(write_nifti(array))
    one = Segmenter(ByValue(), base).segment(scan)
    np.testing.assert_array_equal(one.mask, array == -60)
    two = Segmenter(ByValue(), base.with_settings(['infer.output=["spleen", "pancreas"]'])).segment(scan)
    np.testing.assert_array_equal(two.mask, 1 * (array == 140) + 2 * (array == -60))
    assert two.labels == {1: "spleen", 2: "pancreas"}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda a: a.__setitem__(slice(None), np.arange(8)[:, None, None] - 900), "result.not_found"),
        (lambda a: a.__setitem__((0, 4, 4), 100), "result.touches_border"),
        (lambda a: a.__setitem__((7, 7, 7), 100), "result.components"),
        (lambda a: np.maximum(a, -400, out=a), "result.not_hu"),
    ],
)
def test_doubtful_results_are_for_review(write_nifti, threshold_network, change, code: str) -> None:
    array = np.full((8, 8, 8), -900, np.int16)
    array[2:5, 2:5, 2:5] = 100
    change(array)
    result = Segmenter(threshold_network, _config((2.0, 2.0, 3.0))).segment(read_ct(write_nifti(array)))
    assert result.verdict == "review"
    assert code in [reason.code for reason in result.reasons]


def test_what_lies_outside_the_body_is_not_looked_at(write_nifti, threshold_network) -> None:
    array = np.full((90, 40, 40), -900, np.int16)
    array[5:35, 5:35, 5:35] = 60
    array[70:85, 10:25, 10:25] = 60
    scan = read_ct(write_nifti(array, np.diag([2.0, 2.0, 2.0, 1.0])))
    mask = Segmenter(threshold_network, _config((2.0, 2.0, 2.0))).segment(scan).mask
    assert (mask[5:35, 5:35, 5:35] == 1).all()
    assert not mask[60:].any()


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_an_engine_is_for_both_stages(engine: str) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    segmenter = Segmenter.from_weights("starter", "cpu", (f"infer.engine={engine}",))
    assert segmenter.coarse is not None
    assert [network.name for network in (segmenter.network, segmenter.coarse[0])] == [engine, engine]  # type: ignore[union-attr]
