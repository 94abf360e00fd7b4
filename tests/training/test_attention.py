from __future__ import annotations

import numpy as np
import pytest
import torch

from pancreas_seg.config import Config
from pancreas_seg.data.transforms import CENTRES, IMAGE, LABEL
from pancreas_seg.network.attention_unet import AttentionUNet
from pancreas_seg.training.attention import AttentionRecord, plot_attention


def _config(dims: int, gate: str = "dense") -> Config:
    return Config().changed(
        {
            "data": {"patch_size": [16, 12, 8][:dims]},
            "network": {"spatial_dims": dims, "channels": [2, 4, 4], "gate": gate},
        }
    )


def _volume() -> dict[str, torch.Tensor]:
    label = torch.zeros(1, 40, 30, 20, dtype=torch.uint8)
    label[:, 20:26, 10:16, 8:12] = 1
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(label.shape, generator=generator).half()
    return {IMAGE: image, LABEL: label, CENTRES: torch.nonzero(label[0] == 1).to(torch.int16)}


@pytest.mark.parametrize("dims", [2, 3])
def test_a_record_holds_the_gates_coefficients(dims: int, tmp_path) -> None:
    config = _config(dims)
    torch.manual_seed(0)
    network = AttentionUNet.from_config(config)
    record = AttentionRecord(tmp_path, _volume(), config)
    record.keep(network, 3)
    with np.load(tmp_path / "00003.npz") as kept:
        assert set(kept.files) == {"level_0", "level_1", "image", "label"}
        assert kept["label"].any()
        patch = record.image[None]
        maps = network.eval().attention_maps(patch)
        for level in ("level_0", "level_1"):
            alpha = maps[level][0, 0].detach().numpy()
            expected = alpha[..., alpha.shape[-1] // 2] if dims == 3 else alpha
            assert kept[level].shape == (16, 12)
            np.testing.assert_allclose(kept[level] / 255, expected, atol=0.5 / 255 + 1e-6)


def test_the_figure_shows_rounds_of_the_whole_training(tmp_path) -> None:
    config = _config(3)
    record = AttentionRecord(tmp_path / "attention", _volume(), config)
    for number in range(1, 9):
        record.keep(AttentionUNet.from_config(config), number)
    assert plot_attention(tmp_path / "attention", tmp_path / "attention.png")
    assert (tmp_path / "attention.png").stat().st_size > 10_000


def test_a_network_without_gates_has_nothing_to_show(tmp_path) -> None:
    config = _config(3, "none")
    AttentionRecord(tmp_path / "attention", _volume(), config).keep(AttentionUNet.from_config(config), 1)
    assert not plot_attention(tmp_path / "attention", tmp_path / "attention.png")
    assert not (tmp_path / "attention.png").exists()
