"""The manifests in data_manifests/: counts, splits, MONAI's reader, and that make.py gives them again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from monai.data import load_decathlon_datalist

from pancreas_seg.data.manifest import load_manifest
from pancreas_seg.data.manifest_published import BTCV, MSD, NIH, Published

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "data_manifests"
LISTS = Path(os.environ.get("PANCREAS_SEG_REAL_DATA", ROOT.parent / "shared" / "data")) / "case_ids"
FILES = {"msd_task07_pancreas.json": MSD, "nih_pancreas_ct.json": NIH, "btcv.json": BTCV}


def document(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("name", "training", "test", "folds"),
    [
        ("msd_task07_pancreas.json", 281, 139, [57, 56, 56, 56, 56]),
        ("nih_pancreas_ct.json", 80, 0, [20, 19, 21, 20]),
        ("btcv.json", 30, 20, []),
    ],
)
def test_counts(name: str, training: int, test: int, folds: list[int]) -> None:
    manifest = load_manifest(FOLDER / name)
    assert (len(manifest.of_split("training")), len(manifest.of_split("test"))) == (training, test)
    assert manifest.of_split("validation") == ()
    assert (document(name)["numTraining"], document(name)["numTest"]) == (training, test)
    assert manifest.folds == tuple(range(len(folds)))
    validated: list[str] = []
    for fold, size in enumerate(folds):
        train, validation = manifest.training_cases(fold)
        assert (len(train), len(validation)) == (training - size, size)
        assert not {c.patient_id for c in train} & {c.patient_id for c in validation}
        validated += [c.case_id for c in validation]
    assert len(validated) == len(set(validated)) == sum(folds)
    assert len({c.image for c in manifest.cases}) == training + test


@pytest.mark.parametrize("name", FILES)
def test_monai_reads_it(name: str, tmp_path: Path) -> None:
    cases = load_decathlon_datalist(FOLDER / name, True, "training", base_dir=tmp_path)
    ours = load_manifest(FOLDER / name, tmp_path).of_split("training")
    assert [(c["image"], c["label"]) for c in cases] == [(str(c.image), str(c.label)) for c in ours]
    assert [c.get("fold") for c in cases] == [c.fold for c in ours]
    if "test" in document(name):
        test = load_decathlon_datalist(FOLDER / name, True, "test", base_dir=tmp_path)
        assert len(test) == document(name)["numTest"]
        assert all(Path(c["image"]).is_absolute() for c in test)


@pytest.mark.parametrize(("name", "published"), FILES.items())
def test_agrees_with_the_package(name: str, published: Published) -> None:
    data = document(name)
    numbers = {int(c["case_id"][-4:].removeprefix("_")): c for c in data["training"] + data.get("withdrawn", [])}
    assert {n: c["fold"] for n, c in numbers.items() if "fold" in c} == dict(published.folds)
    for scheme, of in published.splits.items():
        assert {n: c["splits"][scheme] for n, c in numbers.items()} == dict(of)
    for key in ("name", "reference", "licence", "source", "labels", "modality"):
        assert data[key] == published.head()[key]
    assert all(c["case_id"] == published.case_id.format(n=n) for n, c in numbers.items())


def test_msd() -> None:
    manifest = load_manifest(FOLDER / "msd_task07_pancreas.json", "/data")
    assert manifest.labels == {1: "pancreas", 2: "cancer"}
    first = manifest.cases[0]
    assert (first.case_id, first.fold, first.image) == ("pancreas_001", 3, Path("/data/imagesTr/pancreas_001.nii.gz"))
    assert {int(c.case_id[-3:]) for c in manifest.cases} == set(range(1, 422)) - {11}


def test_nih() -> None:
    path = FOLDER / "nih_pancreas_ct.json"
    manifest = load_manifest(path)
    numbers = {int(c.case_id[-4:]) for c in manifest.cases}
    assert numbers == set(range(1, 83)) - {25, 70}
    withdrawn = {c["case_id"]: c["splits"]["mcnet_62_20"] for c in document(path.name)["withdrawn"]}
    assert withdrawn == {"PANCREAS_0025": "test", "PANCREAS_0070": "training"}
    split = load_manifest(path, scheme="mcnet_62_20")
    assert Counter(c.split for c in split.cases) == {"training": 61, "test": 19}
    assert split.folds == ()
    assert all(c.label is not None for c in split.of_split("test"))


def test_btcv() -> None:
    manifest = load_manifest(FOLDER / "btcv.json")
    assert [int(c.case_id[-4:]) for c in manifest.of_split("training")] == [*range(1, 11), *range(21, 41)]
    assert [int(c.case_id[-4:]) for c in manifest.of_split("test")] == list(range(61, 81))
    assert (len(manifest.labels), manifest.labels[1], manifest.labels[11]) == (13, "spleen", "pancreas")
    assert "no open licence" in document("btcv.json")["licence"]


@pytest.mark.real_data
def test_made_from_the_published_lists(tmp_path: Path) -> None:
    if not LISTS.is_dir():
        pytest.skip(f"no published lists in {LISTS}")
    lists = {
        "--msd-dataset": "msd_task07_monai_dynunet_dataset_task07.json",
        "--msd-folds": "msd_task07_monai_dynunet_5folds.json",
        "--nih-split": "nih_pancreasct_split_62_20_mcnet.json",
        "--nih-folds": "nih_pancreasct_4fold_organsegrstn.json",
    }
    arguments = [part for key, name in lists.items() for part in (key, str(LISTS / name))]
    subprocess.run([sys.executable, FOLDER / "make.py", *arguments, "--out", tmp_path], check=True, cwd=ROOT)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()
