"""The weights that the speed benchmarks run: a slip in making them goes unseen while they lie in a cache."""

from __future__ import annotations

import sys

import torch

from pancreas_seg.network.stages import load_stages
from tests.conftest import REPOSITORY


def test_the_wider_network_gives_what_the_starters_fine_one_gives(monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [str(REPOSITORY / "benchmarks"), *sys.path])
    from fine_weights import fine_config, widened

    fine = load_stages("starter").fine[0]
    config = fine_config(fine.config, 0)
    assert (config.infer.threshold, config.infer.overlap, config.train.norm_statistics) == (0.5, 0.5, "batch")
    x = torch.rand(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    narrow, wide = fine.network().eval(), widened(fine, config).network().eval()
    assert sum(p.numel() for p in wide.parameters()) > 1.3 * sum(p.numel() for p in narrow.parameters())
    with torch.inference_mode():
        torch.testing.assert_close(wide(x), narrow(x), rtol=1e-3, atol=1e-3)
