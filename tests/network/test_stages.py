"""Several networks in one file, several files as one ensemble."""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path

import pytest
import torch

from pancreas_seg.config import Config
from pancreas_seg.errors import ConfigError, WeightsError
from pancreas_seg.network.attention_unet import AttentionUNet
from pancreas_seg.network.stages import STARTER, find_weights, load_ensemble, load_stages, pack_weights
from pancreas_seg.network.weights import load_tensors, load_weights, save_tensors, save_weights

CONFIG = Config().changed({"network": {"channels": [4, 4]}, "infer": {"mode": "full"}})
COARSE = CONFIG.changed({"data": {"spacing_mm": [6.0, 6.0, 6.0], "classes": ["pancreas", "liver"]}})


def _saved(path: Path, config: Config = CONFIG, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(path, AttentionUNet.from_config(config), config, {"steps": str(seed)})
    return path


def _same(a, b) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def test_a_packed_file_gives_every_network_back(tmp_path) -> None:
    files = [_saved(tmp_path / "a.safetensors", seed=1), _saved(tmp_path / "b.safetensors", seed=2)]
    coarse = _saved(tmp_path / "c.safetensors", COARSE, seed=3)
    packed = load_stages(pack_weights(tmp_path / "packed.safetensors", files, coarse))
    assert packed.sha256 == hashlib.sha256((tmp_path / "packed.safetensors").read_bytes()).hexdigest()
    assert packed.files == (packed.sha256,)
    assert packed.coarse is not None
    for source, found in zip([*files, coarse], [*packed.fine, packed.coarse], strict=True):
        original = load_weights(source)
        _same(original.state, found.state)
        assert found.card == {**original.card, "packed_from": original.sha256}
        x = torch.rand(1, 1, 8, 8, 8)
        torch.testing.assert_close(original.network()(x), found.network()(x))
    assert packed.coarse.config == COARSE
    assert [w.config for w in packed.fine] == [CONFIG.with_settings(["infer.mode=auto"])] * 2


def test_a_file_of_one_network_is_one_fine_stage(tmp_path) -> None:
    stages = load_stages(_saved(tmp_path / "a.safetensors"))
    assert stages.coarse is None
    (only,) = stages.fine
    assert (only.config, only.sha256) == (CONFIG, stages.sha256)
    assert load_tensors(tmp_path / "a.safetensors")[1]["format"] == "pancreas-seg-1"


def test_packing_is_deterministic_and_half_is_half_as_large(tmp_path) -> None:
    config = CONFIG.changed({"network": {"channels": [16, 32, 64]}})
    fine = [_saved(tmp_path / "a.safetensors", config)]
    one, two = pack_weights(tmp_path / "1.safetensors", fine), pack_weights(tmp_path / "2.safetensors", fine)
    assert one.read_bytes() == two.read_bytes()
    half = pack_weights(tmp_path / "h.safetensors", fine, half=True)
    assert half.stat().st_size / one.stat().st_size == pytest.approx(0.5, abs=0.02)
    network, stored = load_weights(fine[0]).network(), load_stages(half).fine[0].network()
    torch.testing.assert_close(stored.head.weight, network.head.weight, atol=1e-3, rtol=1e-3)
    assert stored.head.weight.dtype == torch.float32


def test_numbers_too_large_for_16_bits_are_kept(tmp_path) -> None:
    network = AttentionUNet.from_config(CONFIG)
    torch.nn.init.constant_(network.head.bias, 1e6)
    save_weights(tmp_path / "a.safetensors", network, CONFIG, half=True)
    state = load_weights(tmp_path / "a.safetensors").state
    assert state["head.bias"].tolist() == [1e6, 1e6]
    assert state["head.weight"].dtype == torch.float16


def test_unusable_packed_files_are_refused(tmp_path) -> None:
    good = pack_weights(tmp_path / "good.safetensors", [_saved(tmp_path / "a.safetensors")])
    tensors, metadata, _ = load_tensors(good)
    entry = json.loads(metadata["stages"])[0]
    lists = {
        "weights.stages": ["none", "[]", "3", "[3]", json.dumps([{**entry, "stage": "other"}])],
        "weights.config": [json.dumps([{**entry, "config": "[future]\nkey = 1"}])],
    }
    lists["weights.stages"] += [json.dumps([{**entry, "stage": "coarse"}]), json.dumps([{"stage": "fine"}])]
    for code, texts in lists.items():
        for text in texts:
            save_tensors(tmp_path / "bad.safetensors", tensors, {**metadata, "stages": text})
            with pytest.raises(WeightsError) as caught:
                load_stages(tmp_path / "bad.safetensors")
            assert caught.value.code == code, text
    two = json.dumps([entry, {**entry, "stage": "coarse"}, {**entry, "stage": "coarse"}])
    save_tensors(tmp_path / "bad.safetensors", tensors, {**metadata, "stages": two})
    with pytest.raises(WeightsError, match=r"weights\.stages"):
        load_stages(tmp_path / "bad.safetensors")
    with pytest.raises(WeightsError, match=r"weights\.packed"):
        load_weights(good)
    with pytest.raises(WeightsError, match=r"weights\.packed"):
        pack_weights(tmp_path / "again.safetensors", [good])
    # A second network is listed, but its tensors are missing.
    save_tensors(tmp_path / "bad.safetensors", tensors, {**metadata, "stages": json.dumps([entry, entry])})
    with pytest.raises(WeightsError, match=r"weights\.mismatch"):
        load_stages(tmp_path / "bad.safetensors").fine[1].network()


def test_packing_refuses_what_cannot_work_together(tmp_path) -> None:
    a = _saved(tmp_path / "a.safetensors")
    b = _saved(tmp_path / "b.safetensors", CONFIG.changed({"data": {"window_hu": [-100.0, 240.0]}}))
    with pytest.raises(ConfigError, match=r"data\.window_hu = -100\.0, 240\.0"):
        pack_weights(tmp_path / "out.safetensors", [a, b])
    broken = tmp_path / "c.safetensors"
    save_weights(broken, AttentionUNet.from_config(CONFIG), CONFIG.changed({"network": {"channels": [4, 8]}}))
    with pytest.raises(WeightsError, match=r"weights\.mismatch"):
        pack_weights(tmp_path / "out.safetensors", [a], broken)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"data": {"spacing_mm": [1.0, 1.0, 1.0]}}, "data.spacing_mm"),
        ({"data": {"classes": ["pancreas", "liver"]}}, "data.classes"),
        ({"data": {"patch_size": [32, 32, 32]}}, "data.patch_size"),
        ({"data": {"classes": ["liver"], "merge": {}}, "infer": {"output": ["liver"]}}, "data.classes"),
        ({"network": {"channels": [4, 8]}, "data": {"merge": {}, "cache": "none"}, "train": {"steps": 3}}, None),
    ],
)
def test_an_ensemble_must_see_the_same_data(tmp_path, change, key: str | None) -> None:
    a, b = _saved(tmp_path / "a.safetensors"), _saved(tmp_path / "b.safetensors", CONFIG.changed(change))
    if key is None:
        assert len(load_ensemble([a, b]).fine) == 2
        return
    with pytest.raises(ConfigError) as caught:
        load_ensemble([a, b])
    assert caught.value.code == "config.ensemble_differs"
    assert key in caught.value.found


def test_an_ensemble_must_write_the_same_classes(tmp_path) -> None:
    config = CONFIG.changed({"data": {"classes": ["pancreas", "liver"]}})
    a = _saved(tmp_path / "a.safetensors", config)
    b = _saved(tmp_path / "b.safetensors", config.changed({"infer": {"output": ["liver"]}}))
    with pytest.raises(ConfigError, match=r"infer\.output = liver; expected pancreas"):
        load_ensemble([a, b])


def test_folders_of_trainings(tmp_path) -> None:
    run = tmp_path / "run"
    folds = [_saved(run / f"fold_{n}" / "best.safetensors", seed=n) for n in range(11)]
    (run / "fold_notes.txt").write_text("x")
    assert find_weights([run, "starter"]) == [*folds, "starter"]  # 10 comes after 9
    assert find_weights([run / "fold_3"]) == [folds[3]]
    stages = load_ensemble(run)
    assert [w.card["steps"] for w in stages.fine] == [str(n) for n in range(11)]
    hashes = [hashlib.sha256(f.read_bytes()).hexdigest() for f in folds]
    assert list(stages.files) == hashes
    assert stages.sha256 == hashlib.sha256("".join(hashes).encode()).hexdigest()
    folds[4].unlink()
    with pytest.raises(WeightsError, match=r"fold_4.*weights\.no_best"):
        load_ensemble(run)
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"weights\.no_best"):
        load_ensemble(tmp_path / "empty")


def test_one_coarse_network_at_most(tmp_path) -> None:
    a, b = _saved(tmp_path / "a.safetensors", seed=1), _saved(tmp_path / "b.safetensors", seed=2)
    coarse = _saved(tmp_path / "c.safetensors", COARSE, seed=3)
    first = pack_weights(tmp_path / "1.safetensors", [a], coarse)
    second = pack_weights(tmp_path / "2.safetensors", [b], coarse)
    mixed = load_ensemble([first, b])
    assert mixed.coarse is not None
    assert len(mixed.fine) == 2
    assert load_ensemble([first, first]).coarse is not None
    with pytest.raises(ConfigError, match=r"config\.two_coarse"):
        load_ensemble([first, second])


def test_starter_weights(tmp_path, monkeypatch) -> None:
    """The word stands for a file inside the package, and is refused clearly where there is none."""
    monkeypatch.setattr(resources, "files", lambda _: tmp_path)
    with pytest.raises(WeightsError, match=r"weights\.no_starter"):
        load_stages(STARTER)
    path = _saved(tmp_path / "weights" / "starter.safetensors")
    listed = tmp_path / "weights" / "SHA256SUMS"
    listed.write_text(f"{'0' * 64}  starter.safetensors\n")
    with pytest.raises(WeightsError, match=r"weights\.changed"):
        load_stages(STARTER)
    listed.write_text(f"{load_weights(path).sha256}  starter.safetensors\n")
    assert load_stages("starter").sha256 == load_weights(path).sha256
    assert len(load_ensemble("starter").fine) == 1
    path.write_bytes(b"broken")
    with pytest.raises(WeightsError, match=r"weights\.damaged"):
        load_stages("starter")
