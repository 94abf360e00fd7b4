from __future__ import annotations

import csv
import json

import pytest

from pancreas_seg.cli import main
from pancreas_seg.config import Config
from pancreas_seg.cross_validation import cross_validate
from pancreas_seg.errors import ManifestError
from pancreas_seg.evaluation.metrics import dice
from pancreas_seg.io import read_mask
from pancreas_seg.network.weights import load_weights

CONFIG = Config().changed(
    {
        "data": {"spacing_mm": [2.0, 2.0, 3.0], "patch_size": [16, 16, 8]},
        "network": {"channels": [4, 8]},
        "train": {"steps": 10, "validate_every": 10, "warmup_steps": 2, "learning_rate": 0.02, "precision": "fp32"},
        "clean": {"minimum_volume_ml": 0.0},
    }
)


def test_each_case_is_evaluated_with_the_network_that_has_not_seen_it(cohort, tmp_path) -> None:
    out = tmp_path / "study"
    result = cross_validate(cohort, out, CONFIG, device="cpu")
    assert [fold.fold for fold in result.folds] == [0, 1]
    assert result.study is not None
    assert [row.case for row in result.study.rows] == ["c0", "c1", "c2"]
    for row, fold in zip(result.study.rows, (0, 1, 1), strict=True):
        folder = out / f"fold_{fold}" / "unseen" / row.case
        mask = read_mask(folder / "mask.nii.gz").labels
        reference = read_mask(tmp_path / f"label{row.case[1]}.nii.gz").labels
        assert row.agreement is not None
        assert row.agreement.dice == pytest.approx(dice(reference == 1, mask == 1))
        used = json.loads((folder / "result.json").read_text())["weights"]["sha256"]
        assert used == load_weights(out / f"fold_{fold}" / "best.safetensors").sha256
    with (out / "folds.csv").open(newline="") as file:
        folds = list(csv.DictReader(file))
    assert [(row["fold"], row["training_cases"], row["unseen_cases"]) for row in folds] == [
        ("0", "2", "1"),
        ("1", "1", "2"),
    ]
    of_fold_1 = [row.agreement.dice for row in result.study.rows[1:] if row.agreement is not None]
    assert float(folds[1]["dice_pancreas"]) == pytest.approx(sum(of_fold_1) / 2, abs=1e-4)
    assert result.study.summaries[0].n_ok == 3
    assert (out / "evaluation" / "summary.json").is_file()


def test_a_finished_study_is_not_done_again(cohort, tmp_path, capsys) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text(CONFIG.with_settings(["train.steps=2", "train.validate_every=1"]).to_toml())
    command = ["train", "--data", str(cohort), "--config", str(settings), "--out", str(tmp_path / "study")]
    command += ["--fold", "all", "--device", "cpu"]
    assert main(command) == 0
    first = {p: p.stat().st_mtime_ns for p in (tmp_path / "study").glob("fold_*/*.safetensors")}
    assert len(first) == 6
    assert main(command) == 2
    assert main([*command, "--resume"]) == 0
    assert first == {p: p.stat().st_mtime_ns for p in (tmp_path / "study").glob("fold_*/*.safetensors")}
    assert "folds.csv" in capsys.readouterr().out


def test_one_fold_is_too_few(cohort, tmp_path) -> None:
    document = json.loads(cohort.read_text())
    for case in document["training"]:
        case["fold"] = 0
    cohort.write_text(json.dumps(document))
    with pytest.raises(ManifestError, match="manifest.too_few_folds"):
        cross_validate(cohort, tmp_path / "study", CONFIG, device="cpu")
