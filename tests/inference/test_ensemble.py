"""Several networks as one, and weights as a user names them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pancreas_seg.config import Config
from pancreas_seg.errors import ConfigError
from pancreas_seg.inference.segmenter import Segmenter
from pancreas_seg.io import read_ct
from pancreas_seg.network.attention_unet import AttentionUNet
from pancreas_seg.network.stages import pack_weights
from pancreas_seg.network.weights import save_weights

CONFIG = Config().changed(
    {
        "data": {"spacing_mm": [3.0, 3.0, 3.0], "patch_size": [16, 16, 16]},
        "network": {"channels": [4, 8, 8]},
        "infer": {"precision": "fp32"},
        "clean": {"minimum_volume_ml": 0.0},
    }
)


def _network(seed: int, config: Config = CONFIG) -> AttentionUNet:
    torch.manual_seed(seed)
    network = AttentionUNet.from_config(config)
    torch.nn.init.normal_(network.head.weight, std=2.0)
    return network.eval()


def _saved(path: Path, seed: int, config: Config = CONFIG) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(path, _network(seed, config), config)
    return path


@pytest.fixture
def scan(write_nifti):
    array = np.random.default_rng(0).integers(-900, 300, (26, 24, 18)).astype(np.int16)
    return read_ct(write_nifti(array))


def test_an_ensemble_is_the_mean_of_its_networks(tmp_path, scan) -> None:
    files = [_saved(tmp_path / "run" / f"fold_{n}" / "best.safetensors", n) for n in range(2)]
    alone = [Segmenter.from_weights(file).segment(scan, probability=True) for file in files]
    both = Segmenter.from_weights(tmp_path / "run").segment(scan, probability=True)
    mean = (alone[0].probability + alone[1].probability) / 2
    np.testing.assert_allclose(both.probability, mean, atol=1e-5)
    assert not np.array_equal(alone[0].mask, alone[1].mask)
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    weights = both.as_dict()["weights"]
    assert weights["files"] == hashes
    assert weights["sha256"] not in hashes
    assert alone[0].as_dict()["weights"] == {"sha256": hashes[0], "files": [hashes[0]]}
    packed = pack_weights(tmp_path / "packed.safetensors", files)
    np.testing.assert_array_equal(Segmenter.from_weights(packed).segment(scan).mask, both.mask)


def test_a_network_twice_is_that_network(tmp_path, scan) -> None:
    file = _saved(tmp_path / "a.safetensors", 1)
    once, twice = (Segmenter.from_weights(paths).segment(scan, probability=True) for paths in (file, [file, file]))
    assert once.mask.any()
    np.testing.assert_array_equal(once.mask, twice.mask)
    np.testing.assert_array_equal(once.probability, twice.probability)


def test_settings_of_the_machine_hold_for_the_coarse_network_too(tmp_path) -> None:
    coarse = _saved(tmp_path / "c.safetensors", 2, CONFIG.changed({"data": {"spacing_mm": [6.0, 6.0, 6.0]}}))
    packed = pack_weights(tmp_path / "packed.safetensors", [_saved(tmp_path / "a.safetensors", 1)], coarse)
    settings = ("infer.precision=bf16", "infer.window_batch=2", "infer.overlap=0.25", "infer.margin_mm=5")
    segmenter = Segmenter.from_weights(packed, settings=settings)
    assert segmenter.coarse is not None
    fine, other = segmenter.config.infer, segmenter.coarse[1].infer
    assert (fine.precision, fine.window_batch, fine.overlap, fine.margin_mm) == ("bf16", 2, 0.25, 5.0)
    assert (other.precision, other.window_batch, other.overlap) == ("bf16", 2, CONFIG.infer.overlap)
    assert segmenter.coarse[1].data.spacing_mm == (6.0, 6.0, 6.0)


def test_the_mode_that_weights_were_trained_with_does_not_matter_once_packed(tmp_path, scan) -> None:
    """Versions without a cascade wrote infer.mode = "full" into every file."""
    fine = _saved(tmp_path / "a.safetensors", 1, CONFIG.changed({"infer": {"mode": "full"}}))
    packed = pack_weights(tmp_path / "p.safetensors", [fine], fine)
    result = Segmenter.from_weights(packed).segment(scan)
    assert result.provenance["cascade"] is not None
    full = Segmenter.from_weights(packed, settings=("infer.mode=full",)).segment(scan)
    assert full.provenance["cascade"] is None
    np.testing.assert_array_equal(full.mask, Segmenter.from_weights(fine).segment(scan).mask)
    with pytest.raises(ConfigError, match=r"config\.no_coarse"):
        Segmenter.from_weights(fine, settings=("infer.mode=cascade",))


def test_resume_knows_an_ensemble(tmp_path, scan) -> None:
    from pancreas_seg.inference.cohort import CaseOptions, find_cases, segment_cases

    a, b = _saved(tmp_path / "a.safetensors", 1), _saved(tmp_path / "b.safetensors", 2)
    cases, out, done = find_cases([scan.path]), tmp_path / "out", list[str]()
    for paths in ([a, b], [a, b], [b, a], [a]):
        segmenter = Segmenter.from_weights(paths)
        segment_cases(segmenter, cases, out, CaseOptions(resume=True, on_saved=lambda *_: done.append("x")))
    assert len(done) == 3
    assert json.loads((out / "ct" / "result.json").read_text())["weights"]["sha256"] == segmenter.weights_sha256
