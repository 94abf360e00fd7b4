"""Attention coefficients on the CT's grid."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from pancreas_seg.config import Config
from pancreas_seg.data.model_grid import model_input
from pancreas_seg.errors import ConfigError
from pancreas_seg.inference.cohort import CaseOptions, find_cases, segment_cases
from pancreas_seg.inference.segmenter import Segmenter
from pancreas_seg.inference.stage import Stage
from pancreas_seg.io import read_ct
from pancreas_seg.network.attention_unet import AttentionUNet
from pancreas_seg.network.torch_engine import TorchEngine, gate_levels
from pancreas_seg.resampling import resample
from tests.conftest import ORIENTATIONS, oblique_affine
from tests.inference.test_cascade import Band

SPACING = (0.9, 1.7, 2.6)
SHAPE = (20, 16, 12)


def _config(gate: str = "grid", channels=(4, 8, 8, 8), patch=SHAPE, spacing=SPACING, **infer) -> Config:
    return Config().changed(
        {
            "data": {"spacing_mm": list(spacing), "patch_size": list(patch)},
            "network": {"gate": gate, "channels": list(channels)},
            "infer": {"precision": "fp32", "margin_mm": 3.0, "coarse_volume_ml": [0.0, 600.0], **infer},
        }
    )


def _network(config: Config, seed: int = 0) -> AttentionUNet:
    """A network whose coefficients cover a good part of 0 to 1."""
    torch.manual_seed(seed)
    network = AttentionUNet.from_config(config)
    for gate in network.gates.values():
        torch.nn.init.normal_(gate.psi.weight, std=3.0)
    return network.eval()


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(1).integers(-900, 300, SHAPE).astype(np.int16)


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.1, 1, (1, *shape)).astype(np.float32)


def _attention(networks: list[AttentionUNet], image: np.ndarray, config: Config) -> np.ndarray:
    return Stage(TorchEngine(networks, config), config).attention(image)


def _oblique():
    return oblique_affine(SPACING, (12.5, -31.0, 108.0))


@pytest.mark.parametrize("reorient", [ORIENTATIONS[0], ORIENTATIONS[5], ORIENTATIONS[30]])
@pytest.mark.parametrize("gate", ["grid", "dense"])
@pytest.mark.parametrize("affine", [np.diag([*SPACING, 1.0]), _oblique()], ids=["straight", "oblique"])
def test_the_file_holds_what_the_gates_say(write_nifti, tmp_path, volume, reorient, gate: str, affine) -> None:
    """A volume of one window on the model grid: attention_maps itself, to half a step of 1/255."""
    array, affine = reorient(volume, affine)
    path = write_nifti(array, affine)
    config = _config(gate)
    network = _network(config)
    result = Segmenter(network, config).segment(read_ct(path), attention=True)
    written = result.save(tmp_path / "out")
    assert [p.name for p in written] == ["mask.nii.gz", "attention.nii.gz", "result.json"]
    levels = [1, 2] if gate == "grid" else [0, 1, 2]
    assert json.loads(written[-1].read_text())["attention_levels"] == levels

    ct, image = nib.load(path), nib.load(tmp_path / "out" / "attention.nii.gz")
    assert image.shape == (*array.shape, len(levels))
    assert image.get_data_dtype() == np.uint8
    for get in ("get_qform", "get_sform"):
        np.testing.assert_array_equal(getattr(image, get)(coded=True)[0], getattr(ct, get)(coded=True)[0])
    assert image.header.get_zooms()[:3] == ct.header.get_zooms()
    found = np.asarray(image.dataobj)

    x, model = model_input(read_ct(path), config)
    assert x.shape[1:] == SHAPE
    with torch.inference_mode():
        maps = network.attention_maps(torch.from_numpy(x[None]))
    for n, level in enumerate(levels):
        expected = resample(maps[f"level_{level}"][0, 0].numpy(), model, read_ct(path).geometry, "linear", fill=None)
        assert expected.std() > 0.05
        np.testing.assert_allclose(found[..., n], expected, atol=0.5 / 255 + 1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_windows_are_blended(dims: int) -> None:
    """Coefficients that depend on nothing are the same after blending, at the shape of the volume."""
    config = _config(patch=(8, 8, 8)).changed({"network": {"spatial_dims": dims}, "data": {"patch_size": [8] * dims}})
    network = _network(config)
    for gate in network.gates.values():
        torch.nn.init.zeros_(gate.psi.weight)
        torch.nn.init.constant_(gate.psi.bias, 1.0)
    out = _attention([network], _noise(20, 13, 9), config)
    assert out.shape == (2, 20, 13, 9)
    np.testing.assert_allclose(out, 1 / (1 + np.exp(-1.0)), rtol=1e-5)


def test_an_ensemble_s_attention_is_the_mean() -> None:
    config = _config(patch=(8, 8, 8))
    networks = [_network(config, seed) for seed in (1, 2)]
    image = _noise(14, 9, 8)
    alone = [_attention([network], image, config) for network in networks]
    np.testing.assert_allclose(_attention(networks, image, config), (alone[0] + alone[1]) / 2, atol=1e-6)
    assert np.abs(alone[0] - alone[1]).max() > 0.1


def test_attention_is_0_outside_the_box_of_a_cascade(write_nifti) -> None:
    """The fine network finds nothing, so that the box is the one of the coarse network."""
    array = np.random.default_rng(3).integers(-1000, -200, (60, 40, 30)).astype(np.int16)
    array[25:35, 16:22, 12:17] = 200
    scan = read_ct(write_nifti(array, np.diag([*SPACING, 1.0])))
    config = _config(fallback="none")
    network = _network(config)
    torch.nn.init.zeros_(network.head.weight)
    network.head.bias.data = torch.tensor([1.0, 0.0])
    result = Segmenter(network, config, coarse=(Band(150), config)).segment(scan, attention=True)
    low, high = result.provenance["cascade"]["fine_box_ras_mm"]
    start, stop = (np.rint(scan.geometry.index(end) + 0.5).astype(int) for end in (low, high))
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    assert (result.attention[box] > 0).mean() > 0.99
    assert (result.attention > 0).sum() == (result.attention[box] > 0).sum()
    assert np.prod(stop - start) < array.size / 3
    blind = Segmenter(network, config, coarse=(Band(900), config)).segment(scan, attention=True)
    assert blind.attention.shape == (*array.shape, 2)
    assert not blind.attention.any()


@pytest.mark.parametrize(("gate", "channels"), [("none", (4, 8, 8)), ("grid", (4, 8))])
def test_a_network_without_gates_is_refused(write_nifti, tmp_path, volume, gate: str, channels) -> None:
    config = _config(gate, channels)
    segmenter = Segmenter(_network(config), config)
    with pytest.raises(ConfigError, match=rf"gate = '{gate}'.*config\.no_gates"):
        segmenter.segment(read_ct(write_nifti(volume)), attention=True)
    with pytest.raises(ConfigError, match=r"config\.no_gates"):
        segment_cases(segmenter, find_cases([write_nifti(volume)]), tmp_path / "out", CaseOptions(attention=True))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match=r"\[0, 1\] and \[1\]|config\.gates_differ"):
        Segmenter([_network(_config("dense")), _network(_config())], config).attention_levels()
    assert segmenter.segment(read_ct(write_nifti(volume))).attention is None


def test_levels_are_in_the_order_of_numbers() -> None:
    network = AttentionUNet(channels=[2] * 12, gate="dense", dims=2)
    assert gate_levels(network) == tuple(range(11))
    assert gate_levels(torch.nn.Identity()) == ()


def test_resume_wants_the_file(write_nifti, tmp_path, volume) -> None:
    config = _config()
    segmenter = Segmenter(_network(config), config)
    cases, out, done = find_cases([write_nifti(volume)]), tmp_path / "out", list[bool]()

    def run(attention: bool) -> None:
        expected = ["attention.nii.gz"] * attention
        segment_cases(
            segmenter,
            cases,
            out,
            CaseOptions(
                attention=attention, resume=True, expected=expected, on_saved=lambda *_: done.append(attention)
            ),
        )

    for attention in (False, False, True, True, False):
        run(attention)
    assert done == [False, True]
    segment_cases(segmenter, cases, out)
    assert sorted(p.name for p in (out / "ct").iterdir()) == ["mask.nii.gz", "result.json"]
