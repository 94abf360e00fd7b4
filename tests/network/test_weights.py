from __future__ import annotations

import numpy as np
import pytest
import torch

from pancreas_seg.config import Config
from pancreas_seg.errors import WeightsError
from pancreas_seg.network.attention_unet import AttentionUNet
from pancreas_seg.network.weights import load_weights, save_tensors, save_weights

CONFIG = Config().changed({"network": {"channels": [4, 4]}})


def test_unusable_files_are_refused(tmp_path) -> None:
    good = tmp_path / "good.safetensors"
    save_weights(good, AttentionUNet.from_config(CONFIG), CONFIG)
    pickle = tmp_path / "model.pt"
    torch.save({"a": torch.zeros(1)}, pickle)
    short = tmp_path / "short.safetensors"
    short.write_bytes(good.read_bytes()[:-10])
    foreign = tmp_path / "foreign.safetensors"
    save_tensors(foreign, {"a": np.zeros(1)}, {})
    text = tmp_path / "text.safetensors"
    text.write_text("hello")
    cases = {
        tmp_path / "missing.safetensors": "weights.unreadable",
        pickle: "weights.pickle",
        short: "weights.damaged",
        text: "weights.damaged",
        foreign: "weights.foreign",
    }
    for path, code in cases.items():
        with pytest.raises(WeightsError) as caught:
            load_weights(path)
        assert caught.value.code == code


def test_tensors_that_do_not_fit_are_refused(tmp_path) -> None:
    other = Config().changed({"network": {"channels": [4, 8]}})
    path = tmp_path / "w.safetensors"
    save_weights(path, AttentionUNet.from_config(CONFIG), other)
    with pytest.raises(WeightsError, match="weights.mismatch"):
        load_weights(path).network()


def test_half_precision_is_half_as_large(tmp_path) -> None:
    network = AttentionUNet.from_config(Config())
    save_weights(tmp_path / "full.safetensors", network, Config())
    save_weights(tmp_path / "half.safetensors", network, Config(), half=True)
    ratio = (tmp_path / "half.safetensors").stat().st_size / (tmp_path / "full.safetensors").stat().st_size
    assert ratio == pytest.approx(0.5, abs=0.01)
    loaded = load_weights(tmp_path / "half.safetensors").network()
    torch.testing.assert_close(loaded.head.weight, network.head.weight, atol=1e-3, rtol=1e-3)


def test_the_same_weights_give_the_same_bytes(tmp_path) -> None:
    network = AttentionUNet.from_config(CONFIG)
    contents = set()
    for n in range(10):
        save_weights(tmp_path / f"{n}.safetensors", network, CONFIG, {"b": "1", "a": "2"})
        contents.add((tmp_path / f"{n}.safetensors").read_bytes())
    assert len(contents) == 1
    assert load_weights(tmp_path / "0.safetensors").card == {"a": "2", "b": "1"}
