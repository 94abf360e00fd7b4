from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pancreas_seg.config import Config
from pancreas_seg.network.windows import count_windows, neighbour_channels, predict_probabilities


def _config(dims: int, size: list[int], **infer) -> Config:
    return Config().changed(
        {"network": {"spatial_dims": dims}, "data": {"patch_size": size}, "infer": {"precision": "fp32", **infer}}
    )


class ValueNetwork(nn.Module):
    """Two classes whose probability depends on the voxel's own value alone, so blending must not change it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([-x[:, :1], x[:, :1]], dim=1)


@pytest.mark.parametrize("shape", [(8, 8, 8), (20, 13, 9), (5, 30, 4)])
@pytest.mark.parametrize(("dims", "size"), [(3, [8, 8, 8]), (2, [8, 8]), (2, [64, 64])])
@pytest.mark.parametrize("blend", ["gaussian", "constant"])
def test_every_voxel_comes_back_in_its_place(shape, dims: int, size: list[int], blend: str) -> None:
    image = torch.randn(1, *shape)
    done: list[tuple[int, int]] = []
    config = _config(dims, size, blend=blend)
    out = predict_probabilities(ValueNetwork(), image, config, [1], progress=lambda *a: done.append(a))
    torch.testing.assert_close(out, torch.sigmoid(2 * image), atol=1e-5, rtol=1e-5)
    total = count_windows(shape, config)
    assert done[-1] == (total, total)


class CornerNetwork(nn.Module):
    """Foreground wherever a window's first half is, so the blending weights show."""

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.full((len(x), 2, *x.shape[2:]), -50.0)
        logits[:, 0], logits[:, 1] = 50.0, -50.0
        logits[:, 1, : x.shape[2] // 2] = 50.0
        logits[:, 0, : x.shape[2] // 2] = -50.0
        return logits


def test_gaussian_blending_trusts_the_middle_of_a_window() -> None:
    image = torch.zeros(1, 12, 8, 8)
    even = predict_probabilities(CornerNetwork(), image, _config(3, [8, 8, 8], blend="constant"), [1])[0, :, 4, 4]
    round_ = predict_probabilities(CornerNetwork(), image, _config(3, [8, 8, 8], blend="gaussian"), [1])[0, :, 4, 4]
    assert even[5] == pytest.approx(0.5, abs=1e-3)  # in both windows, foreground in the second only
    assert even[0] == round_[0] == 1.0
    assert round_[4] < 0.5 < round_[7]  # 4 is near the first window's middle, 7 near the second's


def test_chosen_classes_come_in_the_order_asked_for() -> None:
    class Three(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([0 * x, x, 2 * x], dim=1)

    image = torch.randn(1, 8, 8, 8)
    out = predict_probabilities(Three(), image, _config(3, [8, 8, 8]), [2, 0])
    expected = torch.softmax(torch.cat([0 * image, image, 2 * image]), dim=0)[[2, 0]]
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_neighbouring_slices_are_channels() -> None:
    image = torch.arange(1.0, 5.0).reshape(1, 1, 1, 4)
    assert neighbour_channels(image, 1)[:, 0, 0].tolist() == [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 0]]


def test_a_slice_network_sees_its_neighbours() -> None:
    class Above(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[1] == 3
            return torch.cat([-x[:, 2:], x[:, 2:]], dim=1)

    image = torch.randn(1, 8, 8, 5)
    config = Config().changed({"network": {"spatial_dims": 2}, "data": {"patch_size": [8, 8], "neighbour_slices": 1}})
    out = predict_probabilities(Above(), image, config, [1])
    torch.testing.assert_close(out[..., :-1], torch.sigmoid(2 * image[..., 1:]), atol=1e-5, rtol=1e-5)
