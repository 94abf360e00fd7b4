"""The weights that ship with the package, and their card."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest
import torch

from pancreas_seg.evaluation.metrics import dice
from pancreas_seg.inference.segmenter import Segmenter
from pancreas_seg.io import read_ct, read_mask
from pancreas_seg.network.stages import load_stages

FOLDER = Path(str(resources.files("pancreas_seg") / "weights"))


def test_two_stages_in_16_bits_and_at_most_15_mb() -> None:
    stages = load_stages("starter")
    assert stages.coarse is not None
    assert 3 <= min(stages.coarse.config.data.spacing_mm) <= max(stages.coarse.config.data.spacing_mm) <= 4
    assert all(1 <= s <= 2 for weights in stages.fine for s in weights.config.data.spacing_mm)
    assert (FOLDER / "starter.safetensors").stat().st_size <= 15_000_000
    for weights in (stages.coarse, *stages.fine):
        assert {v.dtype for v in weights.state.values() if v.is_floating_point()} == {torch.float16}
        assert weights.config.infer.output == ("pancreas",)
        weights.network()


def test_the_card_is_of_these_weights() -> None:
    text = (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert re.search(r"SHA-256: `([0-9a-f]{64})`", text).group(1) == load_stages("starter").sha256  # type: ignore[union-attr]
    assert "not a medical device" in text
    assert (FOLDER / "SHA256SUMS").read_text() == f"{load_stages('starter').sha256}  starter.safetensors\n"


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("ct", "labels", "value", "lowest"),
    [
        ("cb001/small_ct", "cb001/small_organs_machine", 2, 0.8),
        ("crlm1006/ct", "crlm1006/organs_machine", 2, 0.8),
        ("totalseg/ct", "totalseg/organs_machine", 7, 0.8),
    ],
)
def test_they_find_the_pancreas_in_cts_that_they_were_trained_with(
    real_data: Path, ct: str, labels: str, value: int, lowest: float
) -> None:
    """A check that weights and cascade fit together, no measure of quality."""
    result = Segmenter.from_weights("starter").segment(read_ct(real_data / f"{ct}.nii.gz"))
    assert result.provenance["mode"] == "cascade"
    reference = read_mask(real_data / f"{labels}.nii.gz").labels == value
    assert dice(reference, result.mask == 1) >= lowest
