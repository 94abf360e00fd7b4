from __future__ import annotations

import json
import pickle

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


def _weights_bytes(tmp_path) -> bytes:
    path = tmp_path / "w.safetensors"
    save_weights(path, AttentionUNet.from_config(CONFIG), CONFIG, {"note": "n"})
    return path.read_bytes()


@pytest.mark.parametrize("step", [23, pytest.param(1, marks=pytest.mark.slow)])
def test_any_changed_byte_is_found(tmp_path, step: int) -> None:
    """Of the header the first bytes, where its length and the checksum stand, and a share of the others or all."""
    content = _weights_bytes(tmp_path)
    path = tmp_path / "changed.safetensors"
    data = 8 + int.from_bytes(content[:8], "little")
    codes = set()
    for place in [*range(40), *range(40, data, step), *range(data, len(content), 97 * step), len(content) - 1]:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(WeightsError) as caught:
            load_weights(path)
        codes.add(caught.value.code)
    # Without the brace behind the length, which may look like it, the file may also count as a pickle.
    assert codes - {"weights.pickle"} == {"weights.damaged", "weights.changed"}
    path.write_bytes(content)
    load_weights(path)


def test_files_of_before_the_checksum_are_read(tmp_path) -> None:
    content = _weights_bytes(tmp_path)
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    for key in ("sha256", "checksum"):
        del header["__metadata__"][key]
    text = json.dumps(header).encode()
    path = tmp_path / "old.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    assert load_weights(path).card == {"note": "n"}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl"])
def test_pickles_are_refused_with_a_word_on_how_to_convert(tmp_path, suffix: str, protocol: int) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(pickle.dumps({"a": [1.0] * 9}, protocol))
    with pytest.raises(WeightsError, match="weights.pickle") as caught:
        load_weights(path)
    assert "save_weights" in caught.value.advice


def test_a_header_as_long_as_a_pickle_begins_is_no_pickle(tmp_path) -> None:
    """A length of 640 bytes is written as 80 02 00 ..., as pickles of protocol 2 begin."""
    for n in range(1000):
        save_tensors(tmp_path / "w", {"a": np.zeros(1)}, {"format": "x" * n})
        content = (tmp_path / "w").read_bytes()
        if content[:2] == b"\x80\x02":
            break
    assert content[:2] == b"\x80\x02"
    with pytest.raises(WeightsError, match="weights.foreign"):
        load_weights(tmp_path / "w")
