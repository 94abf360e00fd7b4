"""What `segment` says of input that it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pancreas_seg.cli import main
from pancreas_seg.config import Config
from pancreas_seg.io import case_name
from pancreas_seg.network.attention_unet import AttentionUNet
from pancreas_seg.network.weights import save_weights


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """Weights that take everything for foreground."""
    config = Config().changed(
        {"data": {"spacing_mm": [4.0, 4.0, 4.0], "patch_size": [16, 16, 16]}, "network": {"channels": [4, 8]}}
    )
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    network = AttentionUNet.from_config(config)
    torch.nn.init.zeros_(network.head.weight)
    network.head.bias.data = torch.tensor([0.0, 1.0])
    save_weights(path, network, config)
    return path


def refused(path: Path, weights: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    """What result.json says of a refused case; a mask from an earlier run lies in its folder."""
    folder = out / case_name(path)[:100]
    folder.mkdir(parents=True)
    (folder / "mask.nii.gz").write_bytes(b"stale")
    assert main(["segment", str(path), "--weights", str(weights), "--out", str(out)]) == 3
    streams = capsys.readouterr()
    assert "Traceback" not in streams.err
    (written,) = [p for p in out.rglob("*") if p.is_file() and p.name != "summary.csv"]
    facts = json.loads(written.read_text())
    assert written == folder / "result.json"
    assert facts["verdict"] == "refused"
    assert facts["reasons"][0]["text"].endswith(".")
    assert facts["reasons"][0]["code"] in streams.err
    assert "refused" in (out / "summary.csv").read_text()
    return facts
