"""Two processes on this machine (gloo) train what one with the doubled batch trains."""

from __future__ import annotations

import csv
import os
import subprocess
import sys

import pytest
import torch

from pancreas_seg.config import Config
from pancreas_seg.data.loading import SampleDataset, VolumeDataset
from pancreas_seg.data.manifest import load_manifest
from pancreas_seg.data.transforms import IMAGE
from pancreas_seg.network.weights import load_weights
from pancreas_seg.training.dice import ClassDice
from pancreas_seg.training.trainer import train

CONFIG = Config().changed(
    {
        "data": {"spacing_mm": [2.0, 2.0, 3.0], "patch_size": [16, 16, 8]},
        "network": {"channels": [4, 8], "norm": "instance"},
        "train": {
            "steps": 6,
            "validate_every": 3,
            "batch_size": 1,
            "warmup_steps": 2,
            "learning_rate": 0.05,
            "optimizer": "sgd",
            "momentum": 0.9,
            "loss": "dice_ce",
            "loss_batch": False,
            "precision": "fp32",
        },
    }
)


def test_the_processes_batches_are_those_of_one_with_a_larger_batch(cohort) -> None:
    config = CONFIG.with_settings(["train.batch_size=2"])
    volumes = VolumeDataset(load_manifest(cohort).of_split("training"), config)
    together = SampleDataset(volumes, config.with_settings(["train.batch_size=4"]), 12)
    parts = [SampleDataset(volumes, config, 6, rank, 2) for rank in (0, 1)]
    for number in (0, 3):
        for dataset in (together, *parts):
            dataset.set_round(number)
        for step in range(3):
            one = [together[4 * step + n][IMAGE] for n in range(4)]
            two = [part[2 * step + n][IMAGE] for part in parts for n in range(2)]
            for a, b in zip(one, two, strict=True):
                torch.testing.assert_close(a, b, atol=0, rtol=0)


class _Others:
    """Stands for processes that have counted the same cases as this one."""

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return 2 * values


def test_validation_is_over_the_cases_of_all_processes() -> None:
    prediction, label = torch.tensor([[[1, 1, 0, 0]]]), torch.tensor([[[1, 0, 0, 0]]])
    values = []
    for processes in (None, _Others()):
        dice = ClassDice(2, ("a",), ("a",), processes)  # type: ignore[arg-type]
        dice.update((prediction, label, torch.tensor([[True, True]])))
        values.append((dice.compute(), dice.accuracy()))
    assert values[0] == values[1] == (pytest.approx(2 / 3), pytest.approx(0.75))


@pytest.mark.slow
def test_two_processes_reach_the_loss_of_one_with_the_doubled_batch(cohort, tmp_path) -> None:
    """With instance norm and the Dice of each sample the two are the same but for rounding: 1e-4, relative.

    SGD, because Adam makes steps of full size of the rounding in gradients that are 0 (biases before a norm).
    """
    one = train(cohort, tmp_path / "one", CONFIG.with_settings(["train.batch_size=2"]), fold=0, device="cpu")
    settings = tmp_path / "settings.toml"
    settings.write_text(CONFIG.to_toml())
    options = ["--data", cohort, "--config", settings, "--fold", "0", "--out", tmp_path / "two", "--device", "cpu"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "pancreas_seg", "train", *map(str, options)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [_rows(tmp_path / name / "metrics.csv") for name in ("one", "two")]
    for a, b in zip(*rows, strict=True):
        for key in ("loss", "accuracy", "val_dice", "val_accuracy", "learning_rate"):
            assert float(a[key]) == pytest.approx(float(b[key]), rel=1e-4), key
    two = load_weights(tmp_path / "two" / "last.safetensors").state
    for name, value in load_weights(one.last).state.items():
        torch.testing.assert_close(two[name], value, atol=1e-4, rtol=1e-3)
    assert done.stdout.count("best.safetensors") == 1


def _rows(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
