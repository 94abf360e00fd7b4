"""Probability and stability of masks from networks whose answer to a change is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pancreas_seg.config import Config
from pancreas_seg.geometry import Geometry
from pancreas_seg.inference.confidence import confidence
from pancreas_seg.inference.stage import Stage, fine_pass
from pancreas_seg.io import Scan
from pancreas_seg.network.torch_engine import TorchEngine

CONFIG = Config().changed(
    {"data": {"spacing_mm": [2.0, 2.0, 2.0], "patch_size": [24, 24, 24]}, "infer": {"precision": "fp32"}}
)


class Above(nn.Module):
    """A probability of 0.9 above an HU, of 0.1 below."""

    def __init__(self, hu: float) -> None:
        super().__init__()
        self.level = (hu + 160) / 400

    def forward(self, x: Tensor) -> Tensor:
        logit = torch.where(x > self.level, 1.0, -1.0) * np.log(9.0)
        return torch.cat([torch.zeros_like(logit), logit], dim=1)


class EvenColumns(Above):
    """As Above, but in every second column of its window only."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        logits[:, 1, 1::2] = -10.0
        return logits


def _confidence(network: nn.Module, shift_hu: float = 10.0) -> tuple[float | None, float | None]:
    """An organ of 100 HU on tissue of 40 HU."""
    image = np.full((24, 24, 24), 40, np.int16)
    image[8:16, 8:16, 8:16] = 100
    scan = Scan(image, Geometry(image.shape, np.diag([2.0, 2.0, 2.0, 1.0])), None, "")  # type: ignore[arg-type]
    stage = Stage(TorchEngine([network], CONFIG), CONFIG)
    return confidence(stage, fine_pass(stage, scan, {}), shift_hu)


def test_what_does_not_hang_on_the_change_is_stable() -> None:
    probability, stability = _confidence(Above(70))
    assert probability == pytest.approx(0.9, abs=1e-5)
    assert stability == 1.0


def test_more_hu_make_a_mask_at_the_threshold_unstable() -> None:
    assert _confidence(Above(45))[1] < 0.2  # type: ignore[operator]
    assert _confidence(Above(45), shift_hu=1.0)[1] == 1.0


def test_another_place_in_the_window_makes_a_mask_unstable() -> None:
    assert _confidence(EvenColumns(70))[1] < 0.2  # type: ignore[operator]


def test_no_change_is_no_check_and_no_mask_has_no_confidence() -> None:
    assert _confidence(Above(70), shift_hu=0.0) == (pytest.approx(0.9, abs=1e-5), None)
    assert _confidence(Above(150)) == (None, None)
