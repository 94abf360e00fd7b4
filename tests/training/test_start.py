from __future__ import annotations

import pytest
import torch

from pancreas_seg.cli import main
from pancreas_seg.config import Config
from pancreas_seg.errors import ConfigError
from pancreas_seg.network.attention_unet import AttentionUNet
from pancreas_seg.network.weights import Weights, load_weights, save_weights
from pancreas_seg.training.start import fine_tuning, start_from
from pancreas_seg.training.trainer import train


def _config(*classes: str, **network) -> Config:
    shape = {"channels": [4, 8, 8], **network}
    return Config().changed({"data": {"classes": list(classes)}, "network": shape})


def _weights(config: Config, tmp_path) -> Weights:
    torch.manual_seed(1)
    network = AttentionUNet.from_config(config)
    arrays = {name: value.numpy() for name, value in network.state_dict().items()}
    return Weights(arrays, config, {}, "5" * 64, tmp_path)


def test_the_same_classes_start_as_the_weights_are(tmp_path) -> None:
    config = _config("pancreas", "liver")
    weights = _weights(config, tmp_path)
    network = AttentionUNet.from_config(config)
    assert start_from(network, config, weights) == ["classes taken over: pancreas, liver"]
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, weights.state[name])


def test_classes_go_by_their_names(tmp_path) -> None:
    weights = _weights(_config("pancreas", "liver", "spleen"), tmp_path)
    config = _config("spleen", "tumour", "pancreas").changed({"data": {"spacing_mm": [3.0, 3.0, 3.0]}})
    network = AttentionUNet.from_config(config)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    notes = start_from(network, config, weights)
    assert notes[:3] == [
        "classes taken over: spleen, pancreas",
        "classes that start anew: tumour",
        "classes left out: liver",
    ]
    assert "[3.0, 3.0, 3.0]" in notes[3]
    for head in ("head", "side_heads.0"):
        for part in ("weight", "bias"):
            new, old = network.state_dict()[f"{head}.{part}"], weights.state[f"{head}.{part}"]
            torch.testing.assert_close(new[[0, 1, 3]], old[[0, 3, 1]])
            torch.testing.assert_close(new[2], before[f"{head}.{part}"][2])


def test_another_network_is_refused_by_what_differs(tmp_path) -> None:
    weights = _weights(_config("pancreas"), tmp_path)
    other = _config("pancreas", gate="dense")
    with pytest.raises(ConfigError, match="network.gate = dense"):
        start_from(AttentionUNet.from_config(other), other, weights)


def test_a_training_starts_from_weights(cohort, tmp_path, caplog) -> None:
    config = _config("pancreas").changed(
        {
            "data": {"spacing_mm": [2.0, 2.0, 3.0], "patch_size": [16, 16, 8]},
            "train": {"steps": 1, "validate_every": 1, "learning_rate": 1e-12, "weight_decay": 0.0},
        }
    )
    weights = _weights(config, tmp_path)
    with caplog.at_level("INFO", logger="pancreas_seg"):
        result = train(cohort, tmp_path / "run", config, fold=0, init=weights)
    assert "classes taken over: pancreas" in caplog.text
    saved = load_weights(result.last)
    assert saved.card["started_from"] == weights.sha256
    torch.testing.assert_close(saved.state["head.weight"], weights.state["head.weight"])


@pytest.mark.parametrize("statistics", ["batch", "stored"])
def test_stored_statistics_stay_while_the_weights_learn(cohort, tmp_path, statistics: str) -> None:
    config = _config("pancreas").changed(
        {
            "data": {"spacing_mm": [2.0, 2.0, 3.0], "patch_size": [16, 16, 8]},
            "train": {"steps": 2, "validate_every": 2, "norm_statistics": statistics, "average_decay": 0.5},
        }
    )
    weights = _weights(config, tmp_path)
    saved = load_weights(train(cohort, tmp_path / "run", config, fold=0, init=weights).last)
    same = {name: torch.equal(value, weights.state[name]) for name, value in saved.state.items()}
    means = [name for name in same if name.endswith(("running_mean", "running_var"))]
    assert [same[name] for name in means] == [statistics == "stored"] * len(means)
    kernels = [name for name, value in saved.state.items() if value.ndim == 5 and name.startswith("down")]
    assert kernels
    assert not any(same[name] for name in kernels)


def test_stored_statistics_have_to_come_from_somewhere(cohort, tmp_path) -> None:
    config = _config("pancreas").with_settings(["train.norm_statistics=stored"])
    with pytest.raises(ConfigError, match="config.no_stored_statistics"):
        train(cohort, tmp_path / "run", config, fold=0)


def test_classes_of_the_weights_need_no_labels(cohort, tmp_path, caplog) -> None:
    config = _config("pancreas", "liver").changed(
        {
            "data": {"spacing_mm": [2.0, 2.0, 3.0], "patch_size": [16, 16, 8]},
            "train": {"steps": 1, "validate_every": 1},
        }
    )
    with caplog.at_level("INFO", logger="pancreas_seg"):
        train(cohort, tmp_path / "run", config, fold=0, init=_weights(config, tmp_path))
    assert "not trained further: liver" in caplog.text


@pytest.mark.parametrize("fold", ["0", "all"])
def test_init_on_the_command_line_takes_the_configuration_of_the_weights(cohort, tmp_path, fold: str) -> None:
    config = _config("pancreas", "liver").changed({"data": {"spacing_mm": [2.0, 2.0, 3.0], "patch_size": [16, 16, 8]}})
    path = tmp_path / "start.safetensors"
    torch.manual_seed(1)
    save_weights(path, AttentionUNet.from_config(config), config)
    command = ["train", "--data", str(cohort), "--out", str(tmp_path / "run"), "--fold", fold, "--init", str(path)]
    assert main([*command, "--set", "train.steps=1", "--set", "train.validate_every=1"]) == 0
    for run in tmp_path.glob("run/fold_*") if fold == "all" else [tmp_path / "run"]:
        trained = load_weights(run / "last.safetensors")
        assert trained.card["started_from"] == load_weights(path).sha256
        assert trained.config.data == config.data
        assert trained.config.train.learning_rate == fine_tuning(config).train.learning_rate


def test_fine_tuning_is_shorter_and_gentler() -> None:
    config = _config("pancreas")
    gentle = fine_tuning(config)
    assert gentle.data == config.data
    assert gentle.train.steps < config.train.steps
    assert gentle.train.learning_rate < config.train.learning_rate
