from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import torch

from pancreas_seg.config import Config
from pancreas_seg.data.loading import SampleDataset
from pancreas_seg.errors import ConfigError, ManifestError, TrainingError
from pancreas_seg.inference.segmenter import Segmenter
from pancreas_seg.io import read_ct
from pancreas_seg.network.decision import decided_among_all
from pancreas_seg.network.loss import SegmentationLoss
from pancreas_seg.network.weights import load_tensors, load_weights
from pancreas_seg.training.dice import ClassDice
from pancreas_seg.training.engine import learning_rate, make_average, make_optimizer
from pancreas_seg.training.trainer import train

CONFIG = Config().changed(
    {
        "data": {"spacing_mm": [2.0, 2.0, 3.0], "patch_size": [16, 16, 8]},
        "network": {"channels": [4, 8]},
        "augment": {"elastic_probability": 0.5},
        "train": {"steps": 8, "validate_every": 4, "warmup_steps": 2, "learning_rate": 0.01, "precision": "fp32"},
        "clean": {"minimum_volume_ml": 0.0},
    }
)


def _weights(path) -> dict[str, torch.Tensor]:
    return dict(load_weights(path).state)


@pytest.mark.parametrize(
    ("optimizer", "precision"),
    [
        ("sgd", "fp32"),
        ("adam", "bf16"),
        ("adamw", "fp32"),
        pytest.param("sgd", "bf16", marks=pytest.mark.slow),
        pytest.param("adam", "fp32", marks=pytest.mark.slow),
        pytest.param("adamw", "bf16", marks=pytest.mark.slow),
    ],
)
def test_resuming_is_the_same_bit_for_bit(cohort, tmp_path, optimizer: str, precision: str) -> None:
    config = CONFIG.with_settings([f"train.optimizer={optimizer}", f"train.precision={precision}"])
    whole = train(cohort, tmp_path / "whole", config, fold=0, device="cpu")

    class Stopped(Exception):
        pass

    import pancreas_seg.training.trainer as trainer_module

    plot = trainer_module.plot_curves
    with pytest.MonkeyPatch.context() as patch:
        written = []

        def stop_in_second_round(history, path):
            written.append(path)
            if len(history) == 2:
                raise Stopped
            return plot(history, path)

        patch.setattr(trainer_module, "plot_curves", stop_in_second_round)
        with pytest.raises(Stopped):
            train(cohort, tmp_path / "parts", config, fold=0, device="cpu")
    assert len(written) == 2
    parts = train(cohort, tmp_path / "parts", config, fold=0, device="cpu", resume=True)
    first, second = _weights(whole.last), _weights(parts.last)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert parts.best_dice == whole.best_dice


def test_each_round_has_samples_of_its_own(cohort, tmp_path, monkeypatch) -> None:
    seen: list[int] = []
    take = SampleDataset._case_at

    def note(self, position: int) -> int:
        seen.append(position)
        return take(self, position)

    monkeypatch.setattr(SampleDataset, "_case_at", note)
    train(cohort, tmp_path / "run", CONFIG, device="cpu")
    assert sorted(seen) == list(range(16))  # two rounds of four steps of two samples


def test_the_running_average_is_what_is_saved(cohort, tmp_path) -> None:
    config = CONFIG.with_settings(["train.average_decay=0.9", "train.steps=8", "train.validate_every=4"])
    train(cohort, tmp_path, config, fold=0)
    tensors, _, _ = load_tensors(tmp_path / "checkpoint.safetensors")
    saved = load_weights(tmp_path / "last.safetensors").state
    moved = 0
    for name, value in saved.items():
        np.testing.assert_array_equal(value.numpy(), tensors[f"average.module.{name}"])
        moved += int(not np.array_equal(value.numpy(), tensors[f"network.{name}"]))
    assert int(tensors["average.n_averaged"]) == 8
    assert moved > len(saved) / 2


def test_the_running_average_is_the_definition() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    average = make_average(network, CONFIG.with_settings(["train.average_decay=0.75"]).train)
    expected = None
    for value in (1.0, 5.0, -3.0):
        torch.nn.init.constant_(network.weight, value)
        average.update_parameters(network)
        expected = value if expected is None else 0.75 * expected + 0.25 * value
    assert average.module.weight.item() == pytest.approx(expected)
    assert make_average(network, CONFIG.train) is None


def test_best_is_the_round_with_the_best_validation(cohort, tmp_path, monkeypatch) -> None:
    scores = iter([0.3, 0.5, 0.4])
    monkeypatch.setattr(ClassDice, "compute", lambda self: next(scores))
    config = CONFIG.with_settings(["train.steps=12"])
    result = train(cohort, tmp_path / "run", config, fold=0, device="cpu")
    assert result.best_dice == 0.5
    assert load_weights(result.best).card["round"] == "2"
    assert load_weights(result.last).card["round"] == "3"


def test_files_of_a_training(cohort, tmp_path) -> None:
    result = train(cohort, tmp_path / "run", CONFIG, fold=1, device="cpu")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {
        "config.toml",
        "best.safetensors",
        "last.safetensors",
        "checkpoint.safetensors",
        "metrics.csv",
        "curves.png",
        "tensorboard",
    }
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["4", "8"]
    assert all(math.isfinite(float(row["loss"])) for row in rows)
    weights = load_weights(result.best)
    assert weights.config == CONFIG
    assert max(float(row["val_dice"]) for row in rows) == pytest.approx(result.best_dice, abs=1e-5)
    with pytest.raises(ConfigError, match="config.run_exists"):
        train(cohort, tmp_path / "run", CONFIG, fold=1, device="cpu")
    with pytest.raises(ConfigError, match="config.resume_differs"):
        train(cohort, tmp_path / "run", CONFIG.with_settings(["train.steps=12"]), fold=1, device="cpu", resume=True)


@pytest.mark.parametrize(
    ("dims", "cache"),
    [
        (2, "memory"),
        (3, "disk"),
        pytest.param(2, "disk", marks=pytest.mark.slow),
        pytest.param(3, "memory", marks=pytest.mark.slow),
    ],
)
def test_it_learns_a_bright_block(cohort, tmp_path, dims: int, cache: str) -> None:
    tree = {
        "network": {"spatial_dims": dims},
        "data": {"patch_size": [16, 16, 8][:dims], "neighbour_slices": 1 if dims == 2 else 0, "cache": cache},
        "train": {"steps": 60, "validate_every": 30, "batch_size": 4, "learning_rate": 0.03, "loss": "dice_ce"},
    }
    result = train(cohort, tmp_path / "run", CONFIG.changed(tree), fold=0, device="cpu")
    assert result.best_dice > 0.8
    scan = read_ct(cohort.parent / "ct0.nii.gz")
    found = Segmenter.from_weights(result.best, "cpu").segment(scan).mask
    wanted = scan.image > 80
    assert 2 * (found & wanted).sum() / (found.sum() + wanted.sum()) > 0.8


def test_resuming_with_another_fold_is_refused(cohort, tmp_path) -> None:
    """Otherwise it would validate on cases that were trained on."""
    train(cohort, tmp_path / "run", CONFIG, fold=0, device="cpu")
    with pytest.raises(ConfigError, match="config.resume_other_cases"):
        train(cohort, tmp_path / "run", CONFIG, fold=1, device="cpu", resume=True)


def test_validation_decides_as_segmenting_does() -> None:
    p = np.array([[0.3, 0.1, 0.2], [0.4, 0.6, 0.1], [0.3, 0.3, 0.7]], dtype=np.float32)[:, None]
    assert decided_among_all(p, [1]).tolist() == [[0, 1, 2]]  # 0.4 is the largest, but less than the rest together
    assert decided_among_all(p, [1, 2]).tolist() == [[1, 1, 2]]
    assert decided_among_all(p, [1], threshold=0.35).tolist() == [[1, 1, 2]]


def test_the_loss_and_validation_hear_what_a_case_is_labelled_for(cohort, tmp_path, monkeypatch) -> None:
    """Two classes, of which case c2 alone knows the second; c0 validates."""
    document = json.loads(cohort.read_text())
    document["training"][2]["labels"] = {"1": "pancreas", "2": "liver"}
    cohort.write_text(json.dumps(document))
    heard: dict[str, list[list[bool]]] = {"loss": [], "dice": []}
    forward, update = SegmentationLoss.forward, ClassDice.update

    def loss(self, outputs, labels, labelled=None):
        heard["loss"] += labelled.tolist()
        return forward(self, outputs, labels, labelled)

    def dice(self, output):
        heard["dice"] += output[2].tolist()
        update(self, output)

    monkeypatch.setattr(SegmentationLoss, "forward", loss)
    monkeypatch.setattr(ClassDice, "update", dice)
    config = CONFIG.changed({"data": {"classes": ["pancreas", "liver"]}, "train": {"steps": 2, "validate_every": 2}})
    train(cohort, tmp_path / "run", config, fold=0)
    assert sorted(heard["loss"]) == [[True, True, False]] * 2 + [[True, True, True]] * 2
    assert heard["dice"] == [[True, True, False]]


def test_a_class_without_any_label_is_refused_by_name(cohort, tmp_path) -> None:
    config = CONFIG.changed({"data": {"classes": ["pancreas", "livr"]}})
    with pytest.raises(ManifestError, match="no training case with a label for livr"):
        train(cohort, tmp_path, config, fold=0)


def test_without_validation_the_last_is_the_best(cohort, tmp_path) -> None:
    result = train(cohort, tmp_path / "run", CONFIG, device="cpu")
    assert math.isnan(result.best_dice)
    first, second = _weights(result.best), _weights(result.last)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_best_is_written_even_if_validation_says_nothing(cohort, tmp_path, monkeypatch) -> None:
    scores = iter([math.nan, 0.2, math.nan])
    monkeypatch.setattr(ClassDice, "compute", lambda self: next(scores))
    result = train(cohort, tmp_path / "run", CONFIG.with_settings(["train.steps=12"]), fold=0, device="cpu")
    assert load_weights(result.best).card["round"] == "2"


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_round(cohort, tmp_path) -> None:
    config = CONFIG.with_settings(
        ["train.learning_rate=1e30", "train.warmup_steps=4", "train.clip_gradient_norm=0", "train.optimizer=sgd"]
    )
    with pytest.raises(TrainingError, match="training.not_finite"):
        train(cohort, tmp_path / "run", config, fold=0, device="cpu")


def test_early_stop(cohort, tmp_path) -> None:
    config = CONFIG.with_settings(
        ["train.steps=40", "train.validate_every=4", "train.early_stop_rounds=2", "train.learning_rate=1e-12"]
    )
    result = train(cohort, tmp_path / "run", config, fold=0, device="cpu")
    assert 3 <= result.rounds < 10
    again = train(cohort, tmp_path / "run", config, fold=0, device="cpu", resume=True)
    assert again.rounds == result.rounds


def test_learning_rate_schedules() -> None:
    train_config = CONFIG.with_settings(["train.warmup_steps=10", "train.learning_rate=1.0"]).train
    assert learning_rate(0, 110, train_config) == pytest.approx(0.1)
    assert learning_rate(10, 110, train_config) == pytest.approx(1.0)
    assert learning_rate(60, 110, train_config) == pytest.approx(0.5**0.9)
    for schedule, middle, end in [("constant", 1.0, 1.0), ("cosine", 0.5, 0.0), ("poly", 0.5**0.9, 0.0)]:
        settings = CONFIG.with_settings(
            ["train.warmup_steps=0", "train.learning_rate=1.0", f"train.schedule={schedule}"]
        ).train
        assert learning_rate(50, 100, settings) == pytest.approx(middle)
        assert learning_rate(100, 100, settings) == pytest.approx(end)


def test_optimizers() -> None:
    network = torch.nn.Linear(1, 1)
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    for name, kind in kinds.items():
        optimizer = make_optimizer(network, CONFIG.with_settings([f"train.optimizer={name}"]).train)
        assert type(optimizer) is kind
        assert optimizer.defaults["lr"] == 0.01


def test_class_dice_is_the_definition() -> None:
    rng = np.random.default_rng(0)
    metric = ClassDice(3, ("a", "b"), ("b",))
    dice: dict[int, list[float]] = {1: [], 2: []}
    right = []
    for _ in range(3):
        prediction, label = rng.integers(0, 3, (2, 1, 1, 4, 5, 6))
        metric.update((torch.from_numpy(prediction), torch.from_numpy(label), torch.ones(1, 3, dtype=torch.bool)))
        right.append((prediction == label).mean())
        for c, values in dice.items():
            values.append(2 * ((prediction == c) & (label == c)).sum() / ((prediction == c).sum() + (label == c).sum()))
    per_class = metric.per_class()
    assert per_class["a"] == pytest.approx(np.mean(dice[1]))
    assert metric.compute() == per_class["b"] == pytest.approx(np.mean(dice[2]))
    assert metric.accuracy() == pytest.approx(np.mean(right))


def test_a_class_that_is_in_neither_counts_for_nothing() -> None:
    metric = ClassDice(2, ("a",), ("a",))
    empty = torch.zeros(1, 1, 2, 2, 2, dtype=torch.int64)
    both = torch.ones(1, 2, dtype=torch.bool)
    metric.update((empty, empty, both))
    assert math.isnan(metric.compute())
    full = torch.ones_like(empty)
    metric.update((full, empty, both))
    metric.update((full, full, both))
    assert metric.compute() == pytest.approx(0.5)


def test_validation_leaves_out_unlabelled_classes_and_ignored_voxels() -> None:
    metric = ClassDice(3, ("a", "b"), ("a",))
    label = torch.tensor([1, 1, 0, 255, 255, 0]).reshape(1, 1, 6)
    prediction = torch.tensor([1, 2, 0, 1, 2, 2]).reshape(1, 1, 6)
    metric.update((prediction, label, torch.tensor([[True, True, False]])))
    assert metric.compute() == pytest.approx(2 * 1 / (2 + 1))
    assert math.isnan(metric.per_class()["b"])
    assert metric.accuracy() == pytest.approx(2 / 4)
