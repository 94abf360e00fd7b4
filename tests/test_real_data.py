"""Real CTs from a folder beside the repository; see `real_data` in conftest.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import SimpleITK as sitk

from pancreas_seg.config import Config, load_preset
from pancreas_seg.evaluation.metrics import dice
from pancreas_seg.inference import stage
from pancreas_seg.inference.segmenter import Segmenter
from pancreas_seg.io import read_ct, read_mask
from pancreas_seg.training.trainer import train
from tests.conftest import ANY_ORGAN

pytestmark = pytest.mark.real_data

CTS = ["cb001/small_ct", "totalseg/ct", "crlm1006/ct", "c3l00189/ct", "acrinflt001/ct"]


@pytest.mark.parametrize("name", CTS)
def test_the_mask_lies_on_the_cts_grid(real_data: Path, tmp_path, threshold_network, monkeypatch, name: str) -> None:
    """An identity network at the CT's own spacing: the mask is the voxels above 40 HU, for SimpleITK too."""
    monkeypatch.setattr(stage, "body_box", lambda *_: None)  # tables are above 40 HU
    path = real_data / f"{name}.nii.gz"
    scan = read_ct(path)
    by_axis = scan.geometry.spacing_mm
    spacing = [by_axis[axis] for axis, _ in scan.geometry.ras_axes]
    config = Config().changed(
        {
            "data": {"spacing_mm": spacing},
            "infer": {"precision": "fp32", "overlap": 0.0},
            "clean": {"keep_fraction": 0.0, "fill_holes": False, "minimum_volume_ml": 0.0},
            "verdict": ANY_ORGAN,
        }
    )
    Segmenter(threshold_network, config).segment(scan).save(tmp_path)
    ct, mask = sitk.ReadImage(str(path)), sitk.ReadImage(str(tmp_path / "mask.nii.gz"))
    assert ct.GetSize() == mask.GetSize()
    assert ct.GetOrigin() == mask.GetOrigin()
    assert ct.GetSpacing() == mask.GetSpacing()
    assert ct.GetDirection() == mask.GetDirection()
    wrong = (sitk.GetArrayFromImage(ct) > 40) != (sitk.GetArrayFromImage(mask) > 0)
    # Values of exactly 40 HU may fall to either side of the windowed 0.5.
    assert not wrong[sitk.GetArrayFromImage(ct) != 40].any()


def test_mask_pairs_give_the_dice_that_is_listed_with_them(real_data: Path) -> None:
    """18 real pancreas masks and two networks' predictions, to 4 decimal places."""
    pairs = json.loads((real_data / "masks" / "expected.json").read_text())
    assert len(pairs) == 18
    for pair in pairs:
        folder = real_data / "masks" / pair["id"]
        reference = read_mask(folder / "reference.nii.gz")
        assert list(reference.geometry.shape) == pair["shape"]
        for which in ("a", "b"):
            prediction = read_mask(folder / f"prediction_{which}.nii.gz")
            found = dice(reference.labels > 0, prediction.labels > 0)
            assert found == pytest.approx(pair[f"dice_{which}"], abs=5.1e-5)


def test_training_on_a_real_ct_learns_its_liver(real_data: Path, tmp_path) -> None:
    """A few minutes' worth of a full training: the liver of the CT it is trained on (a machine label)."""
    labels = {"2": "pancreas", "6": "liver"}
    case = {
        "image": str(real_data / "cb001" / "small_ct.nii.gz"),
        "label": str(real_data / "cb001" / "small_organs_machine.nii.gz"),
        "labels": labels,
    }
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"labels": {"0": "background", **labels}, "training": [case]}))
    config = load_preset("tiny").changed(
        {
            "data": {"classes": ["liver"], "merge": {}},
            "infer": {"output": ["liver"]},
            "train": {"steps": 100, "validate_every": 100},
        }
    )
    result = train(manifest, tmp_path / "run", config)
    scan = read_ct(case["image"])
    mask = Segmenter.from_weights(result.best).segment(scan).mask
    assert dice(read_mask(case["label"]).labels == 6, mask == 1) > 0.85
