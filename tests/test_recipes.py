"""What the starter weights are trained from."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pancreas_seg.data.manifest import load_manifest
from pancreas_seg.data.phantom import write_cohort
from pancreas_seg.data.phantom.labels import LABEL_OF
from pancreas_seg.io import read_ct, read_mask

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))

import starter_data
from starter_data import Mix, mixed


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    """A manifest of two CTs that are phantoms under other names, and one mask of somebody else."""
    out = tmp_path_factory.mktemp("recipe")
    coarser = pytest.MonkeyPatch()
    coarser.setattr(starter_data, "SHAPES_SPACING_MM", (5.0, 5.0, 5.0))
    manifest = write_cohort(out / "cts", cases=2, seed=5, spacing_mm=(5.0, 5.0, 5.0))
    document = json.loads(manifest.read_text())
    for case, name in zip(document["training"], ("crlm1006", "c3l00189"), strict=True):
        case |= {"case_id": name, "labels": {str(LABEL_OF["pancreas"]): "pancreas", str(LABEL_OF["liver"]): "liver"}}
        case |= {key: str((manifest.parent / case[key]).resolve()) for key in ("image", "label")}
    (out / "manifest.json").write_text(json.dumps(document))
    other = read_mask(Path(document["training"][1]["label"]))
    (out / "masks" / "someone").mkdir(parents=True)
    values = (other.labels == LABEL_OF["pancreas"]).astype(np.uint8)
    nib.save(nib.Nifti1Image(values, other.geometry.affine), out / "masks" / "someone" / "reference.nii.gz")
    yield out
    coarser.undo()


def test_a_mix_takes_each_ct_so_often_and_another_shape_once(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(starter_data, "phantoms", lambda out, count: [{"case_id": f"p{n}"} for n in range(count)])
    mix = Mix({"crlm1006": 3, "c3l00189": 2}, phantoms=2, shapes=True)
    path = mixed(folder / "manifest.json", folder, "all", mix, folder / "masks")
    names = [case["case_id"] for case in json.loads(path.read_text())["training"]]
    expected = ["crlm1006", "crlm1006_2", "crlm1006_3", "c3l00189", "c3l00189_2", "crlm1006_someone", "p0", "p1"]
    assert names == expected


def test_what_is_left_out_leaves_no_trace(folder: Path) -> None:
    mix = Mix({"crlm1006": 1, "c3l00189": 1}, shapes=True)
    path = mixed(folder / "manifest.json", folder, "without", mix, folder / "masks", without=["crlm1006"])
    assert [case.case_id for case in load_manifest(path).cases] == ["c3l00189"]


def test_a_ct_with_another_shape_is_sound_and_has_that_shape(folder: Path) -> None:
    path = mixed(folder / "manifest.json", folder, "shapes", Mix(shapes=True), folder / "masks")
    (case,) = load_manifest(path).cases
    scan, labels = read_ct(case.image), read_mask(Path(str(case.label)))
    assert scan.geometry.same_grid(labels.geometry, 1e-4)
    assert scan.geometry.orientation == "RAS"
    pancreas = labels.labels == LABEL_OF["pancreas"]
    own = read_mask(folder / "cts" / "labels" / "phantom_0000.nii.gz")
    volume = (own.labels == LABEL_OF["pancreas"]).sum() * own.geometry.voxel_ml
    other = read_mask(folder / "masks" / "someone" / "reference.nii.gz")
    wanted = np.clip(other.labels.sum() * other.geometry.voxel_ml, volume / 2, volume * 2)
    assert abs(pancreas.sum() * labels.geometry.voxel_ml - wanted) < 0.6 * abs(volume - wanted) + 0.1 * wanted
    assert 60 < scan.image[pancreas].mean() < 150
