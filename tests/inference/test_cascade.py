"""Coarse, then fine, with networks whose right answer is known: they go by HU alone.

Organ: 200 HU, or 100 HU where only the fine network sees it. Everything else: below -100 HU.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pancreas_seg.config import Config
from pancreas_seg.errors import ConfigError
from pancreas_seg.geometry import Box
from pancreas_seg.inference import cascade
from pancreas_seg.inference.cascade import is_scattered, near_faces
from pancreas_seg.inference.segmenter import Segmenter
from pancreas_seg.io import read_ct
from tests.conftest import ANY_ORGAN, oblique_affine

SPACING = (0.9, 1.7, 2.6)


class Band(nn.Module):
    """Foreground where the input is between two HU."""

    def __init__(self, low_hu: float, high_hu: float = 1e9) -> None:
        super().__init__()
        self.low, self.high = ((hu + 160) / 400 for hu in (low_hu, high_hu))

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, x.shape[1] // 2, None]
        logit = torch.minimum(x - self.low, self.high - x) * 1e4
        return torch.cat([-logit, logit], dim=1)


class Fails(nn.Module):
    def forward(self, _: Tensor) -> Tensor:
        raise AssertionError("this stage must not run")


def _config(spacing=SPACING, **infer) -> Config:
    tree = {
        "data": {"spacing_mm": list(spacing), "patch_size": [64, 64, 32]},
        "infer": {"precision": "fp32", "margin_mm": 3.0, "coarse_volume_ml": [0.05, 600.0], **infer},
        "clean": {"keep_fraction": 0.0, "fill_holes": False, "minimum_volume_ml": 0.0},
        "verdict": ANY_ORGAN,
    }
    return Config().changed(tree)


def _segmenter(
    config: Config | None = None,
    coarse: nn.Module | None = None,
    fine: nn.Module | None = None,
    coarse_spacing: tuple[float, ...] = (2.0, 2.0, 3.0),
) -> Segmenter:
    return Segmenter(fine or Band(50), config or _config(), coarse=(coarse or Band(150), _config(coarse_spacing)))


def _volume(shape=(40, 28, 22)) -> np.ndarray:
    return np.random.default_rng(3).integers(-1000, -200, shape).astype(np.int16)


def _scan(write_nifti, array, affine=None):
    return read_ct(write_nifti(array, oblique_affine(SPACING, (12.5, -31.0, 108.0)) if affine is None else affine))


def _codes(result) -> list[str]:
    return [reason.code for reason in result.reasons]


@pytest.fixture
def organ() -> np.ndarray:
    """An organ that both networks see, and something far away that only the fine one does."""
    array = _volume()
    array[14:22, 10:16, 8:13] = 200
    array[18:24, 12:15, 10:14] = 200
    array[36:39, 23:27, 18:21] = 100
    return array


def test_only_the_box_is_searched(write_nifti, organ, reorient) -> None:
    """In all 48 orientations of an oblique grid: the organ exactly, and not what lies outside the box."""
    array, affine = reorient(organ, oblique_affine(SPACING, (12.5, -31.0, 108.0)))
    scan = _scan(write_nifti, array, affine)
    result = _segmenter().segment(scan, probability=True)
    np.testing.assert_array_equal(result.mask, array == 200)
    np.testing.assert_allclose(result.probability, array == 200, atol=1e-4)
    assert (result.provenance["mode"], result.verdict, _codes(result)) == ("cascade", "ok", [])
    full = _segmenter(_config(mode="full"), coarse=Fails()).segment(scan)
    np.testing.assert_array_equal(full.mask, array > 0)
    assert full.provenance["mode"] == "full"
    assert full.provenance["cascade"] is None


@pytest.mark.parametrize("affine", [None, np.diag([-0.9, -1.7, 2.6, 1.0]), np.diag([0.9, 1.7, -2.6, 1.0])])
def test_the_cascade_draws_what_a_full_pass_draws(write_nifti, affine) -> None:
    """The crop is one of the whole CT's model grid, so its voxels are the same."""
    array = _volume((60, 40, 30))
    index = np.stack(np.meshgrid(*map(range, array.shape), indexing="ij"), -1)
    ball = (((index - (31.2, 17.4, 14.1)) * SPACING) ** 2).sum(-1) < 12**2
    array = np.where(ball, 240, -160).astype(np.int16)
    array[0, 0, 0] = -900
    scan = _scan(write_nifti, array, affine)
    spacing = (1.5, 1.5, 2.0)
    result = _segmenter(_config(spacing)).segment(scan)
    full = _segmenter(_config(spacing, mode="full")).segment(scan)
    assert result.provenance["mode"] == "cascade"
    low, high = result.provenance["cascade"]["fine_box_ras_mm"]
    assert np.prod(np.subtract(high, low)) < 0.7 * np.prod(
        np.subtract(*scan.geometry.box_mm(Box((0, 0, 0), array.shape))[::-1])
    )
    np.testing.assert_array_equal(result.mask, full.mask)
    assert 2 * (result.mask & ball).sum() / (result.mask.sum() + ball.sum()) > 0.95


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("flip", [False, True])
def test_the_box_grows_to_what_the_coarse_network_missed(write_nifti, axis: int, flip: bool) -> None:
    array = _volume((64, 40, 34))
    centre = [slice(n // 2 - 3, n // 2 + 3) for n in array.shape]
    n = array.shape[axis]
    for start, stop, hu in ((n // 4, n // 2, 200), (n // 2, n - 5, 100)):
        centre[axis] = slice(start, stop)
        array[tuple(centre)] = hu
    if flip:
        array = np.ascontiguousarray(np.flip(array, axis))
    result = _segmenter(coarse_spacing=SPACING).segment(_scan(write_nifti, array, np.diag([*SPACING, 1.0])))
    np.testing.assert_array_equal(result.mask, array > 0)
    facts = result.provenance["cascade"]
    assert facts["growths"] >= 1
    assert (result.provenance["mode"], result.verdict) == ("cascade", "ok")
    # Only the side that the organ was cut at was grown.
    (low, high), (fine_low, fine_high) = facts["coarse_box_ras_mm"], facts["fine_box_ras_mm"]
    added = np.array([np.subtract(low, fine_low), np.subtract(fine_high, high)]).T
    grown = added > 3.0 + 5.1 * np.array(SPACING)[:, None]
    assert grown.tolist() == [[a == axis and flip, a == axis and not flip] for a in range(3)]


def test_growing_is_bounded_and_says_so(write_nifti, monkeypatch) -> None:
    array = _volume((90, 20, 20))
    array[5:20, 8:12, 8:12] = 200
    array[20:85, 8:12, 8:12] = 100
    monkeypatch.setattr(cascade, "GROWTHS", 1)
    result = _segmenter().segment(_scan(write_nifti, array))
    assert result.provenance["cascade"]["growths"] == 1
    assert (result.mask > 0).sum() < (array > 0).sum()
    assert _codes(result) == ["result.box_limit"]
    assert result.verdict == "review"
    monkeypatch.setattr(cascade, "GROWTHS", 4)
    again = _segmenter().segment(_scan(write_nifti, array))
    np.testing.assert_array_equal(again.mask, array > 0)
    assert again.verdict == "ok"


def test_the_image_s_own_edge_does_not_grow_the_box(write_nifti) -> None:
    array = _volume()
    array[0:9, 10:16, 8:13] = 200
    result = _segmenter().segment(_scan(write_nifti, array))
    np.testing.assert_array_equal(result.mask, array > 0)
    assert result.provenance["cascade"]["growths"] == 0
    assert _codes(result) == ["result.touches_border"]


def _two_pieces() -> np.ndarray:
    array = _volume((80, 20, 20))
    array[10:16, 8:12, 8:12] = 200
    array[66:72, 8:12, 8:12] = 200
    return array


@pytest.mark.parametrize(
    ("code", "array", "change"),
    [
        ("result.coarse_nothing", None, {}),
        ("result.coarse_too_small", None, {"coarse_volume_ml": [5.0, 600.0]}),
        ("result.coarse_too_large", None, {"coarse_volume_ml": [0.01, 0.5]}),
        ("result.coarse_scattered", _two_pieces(), {"coarse_gap_mm": 30.0}),
    ],
)
def test_a_coarse_network_that_is_not_believed(write_nifti, organ, code: str, array, change) -> None:
    array = organ if array is None else array
    coarse = Band(900) if code == "result.coarse_nothing" else Band(150)
    scan = _scan(write_nifti, array)
    result = _segmenter(_config(**change), coarse).segment(scan)
    np.testing.assert_array_equal(result.mask, array > 0)
    assert _codes(result)[0] == code
    assert result.verdict == "review"
    assert "the whole CT was searched" in result.reasons[0].text
    assert result.provenance["mode"] == "full"
    assert result.provenance["cascade"]["fallback"] == "full"
    none = _segmenter(_config(fallback="none", **change), coarse, fine=Fails()).segment(scan, probability=True)
    assert not none.mask.any()
    assert not none.probability.any()
    assert none.mask.shape == array.shape
    assert _codes(none)[:2] == [code, "result.not_found"]
    assert (none.verdict, none.provenance["mode"]) == ("review", "cascade")


def test_pieces_near_each_other_are_believed(write_nifti) -> None:
    array = _two_pieces()
    result = _segmenter(_config(coarse_gap_mm=60.0)).segment(_scan(write_nifti, array))
    np.testing.assert_array_equal(result.mask, array > 0)
    assert _codes(result) == ["result.components"]


def test_small_pieces_of_the_coarse_mask_do_not_widen_the_box(write_nifti) -> None:
    array = _volume()
    array[4:13, 4:12, 4:12] = 200
    array[36:38, 24:26, 18:20] = 200
    scan = _scan(write_nifti, array)

    def codes(keep_fraction: float) -> tuple[list[str], bool]:
        coarse = _config().changed({"clean": {"keep_fraction": keep_fraction}})
        result = Segmenter(Band(50), _config(), coarse=(Band(150), coarse)).segment(scan)
        np.testing.assert_array_equal(result.mask[:20], array[:20] == 200)
        return _codes(result), bool(result.mask[20:].any())

    assert codes(0.25) == ([], False)
    assert codes(0.0) == (["result.components"], True)


def test_an_empty_box_is_not_the_end(write_nifti) -> None:
    """The coarse network points at the wrong thing: the fine one finds nothing there and looks everywhere."""
    array = _volume()
    array[4:12, 4:10, 4:9] = 200
    array[25:32, 15:20, 12:16] = 100
    scan = _scan(write_nifti, array)
    result = _segmenter(fine=Band(50, 150)).segment(scan)
    np.testing.assert_array_equal(result.mask, array == 100)
    assert (_codes(result), result.provenance["mode"]) == (["result.coarse_wrong"], "full")
    none = _segmenter(_config(fallback="none"), fine=Band(50, 150)).segment(scan)
    assert not none.mask.any()
    assert _codes(none) == ["result.coarse_wrong", "result.not_found"]


def test_slices_with_neighbours(write_nifti, organ) -> None:
    tree = {"network": {"spatial_dims": 2}, "data": {"patch_size": [64, 64], "neighbour_slices": 1}}
    config = Config().changed({**tree, "infer": {"precision": "fp32"}})
    config = replace(
        config, data=replace(config.data, spacing_mm=SPACING), infer=_config().infer, clean=_config().clean
    )
    result = _segmenter(config).segment(_scan(write_nifti, organ))
    np.testing.assert_array_equal(result.mask, organ == 200)
    assert result.provenance["mode"] == "cascade"


@pytest.mark.parametrize("neighbours", [0, 3])
def test_a_slice_at_the_organs_end_has_its_neighbours_in_the_box(write_nifti, organ, neighbours: int) -> None:
    tree = {"network": {"spatial_dims": 2}, "data": {"patch_size": [64, 64], "neighbour_slices": neighbours}}
    config = Config().changed(tree)
    plain = _config(margin_mm=0.0)
    config = replace(config, data=replace(config.data, spacing_mm=SPACING), infer=plain.infer, clean=plain.clean)
    facts = (
        _segmenter(config, coarse_spacing=SPACING)
        .segment(_scan(write_nifti, organ, np.diag([*SPACING, 1.0])))
        .provenance["cascade"]
    )
    assert facts["growths"] == 0
    (low, high), (fine_low, fine_high) = facts["coarse_box_ras_mm"], facts["fine_box_ras_mm"]
    assert (low[2] - fine_low[2]) / SPACING[2] > 2 + neighbours - 0.01
    assert (fine_high[2] - high[2]) / SPACING[2] > 2 + neighbours - 0.01


def test_the_organ_is_looked_for_among_the_coarse_classes(write_nifti) -> None:
    """The coarse network knows spleen and pancreas; the fine one is asked for the pancreas."""

    class SpleenAndPancreas(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([-1e4 * (x - level) ** 2 for level in (0.0, 0.65, 0.9)], dim=1)

    array = _volume()
    array[4:12, 4:10, 4:9] = 100  # spleen: 0.65
    array[25:32, 15:20, 12:16] = 200
    tree = {"data": {"classes": ["spleen", "pancreas"]}}
    segmenter = Segmenter(Band(50), _config(), coarse=(SpleenAndPancreas(), _config((2.0, 2.0, 3.0)).changed(tree)))
    result = segmenter.segment(_scan(write_nifti, array))
    np.testing.assert_array_equal(result.mask, array == 200)


def test_facts_of_a_cascade(write_nifti, tmp_path, organ) -> None:
    scan = _scan(write_nifti, organ, np.diag([*SPACING, 1.0]))
    passes: list[tuple[str, int, int]] = []
    result = _segmenter(coarse_spacing=SPACING).segment(scan, progress=lambda *a: passes.append(a))
    result.save(tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "result.json").read_text())
    assert facts["mode"] == "cascade"
    assert (facts["cascade"]["fallback"], facts["cascade"]["growths"]) == (None, 0)
    assert facts["cascade"]["coarse_volume_ml"] == pytest.approx(
        (organ == 200).sum() * np.prod(SPACING) / 1e3, abs=1e-3
    )
    (low, high), (fine_low, fine_high) = (facts["cascade"][f"{name}_box_ras_mm"] for name in ("coarse", "fine"))
    index = np.argwhere(organ == 200)
    np.testing.assert_allclose(low, (index.min(0) - 0.5) * SPACING, atol=2e-3)
    np.testing.assert_allclose(high, (index.max(0) + 0.5) * SPACING, atol=2e-3)
    for added in (np.subtract(low, fine_low), np.subtract(fine_high, high)):  # the margin, the rim, whole voxels
        assert (added >= 3.0 + 3 * np.array(SPACING)).all()
        assert (added <= 3.0 + 5.1 * np.array(SPACING)).all()
    timings = facts["timings_s"]
    assert set(timings) == {
        "coarse_preprocess", "coarse_network", "coarse_locate", "preprocess", "network", "restore", "clean", "assess",
        "write",
    }  # fmt: skip
    assert passes == [("coarse", 1, 1), ("fine", 1, 1)]


def test_a_cascade_needs_a_coarse_network(write_nifti, organ) -> None:
    with pytest.raises(ConfigError, match=r"config\.no_coarse"):
        Segmenter(Band(50), _config(mode="cascade"))
    alone = Segmenter(Band(50), _config()).segment(_scan(write_nifti, organ))
    assert alone.provenance["mode"] == "full"
    np.testing.assert_array_equal(alone.mask, organ > 0)


@pytest.mark.parametrize(("gap", "scattered"), [(9.0, False), (7.0, True)])
def test_scattered_pieces(gap: float, scattered: bool) -> None:
    """Three pieces in a row with 8 mm between neighbours; the outer two are 26 mm apart, which does not matter."""
    organ = np.zeros((20, 6, 6), bool)
    organ[2:4], organ[7:9], organ[12:14] = True, True, True
    assert is_scattered(organ, (2.0, 1.0, 1.0), gap) is scattered
    assert not is_scattered(np.zeros((3, 3, 3), bool), (1.0, 1.0, 1.0), gap)


def test_near_faces() -> None:
    mask = np.zeros((10, 8, 6), bool)
    mask[1, 4, 2:5] = True
    box, shape = Box((5, 5, 5), (15, 13, 11)), (30, 30, 30)
    assert near_faces(mask, box, shape, (2, 2, 2)).tolist() == [[True, False], [False, False], [False, True]]
    assert near_faces(mask, box, shape, (1, 1, 3)).tolist() == [[False, False], [False, False], [True, True]]
    assert not near_faces(mask, box, shape, (1, 1, 1)).any()
    at_edge = Box((0, 5, 24), (10, 13, 30))
    assert not near_faces(mask, at_edge, shape, (2, 2, 2)).any()


class Unsure(nn.Module):
    """A probability of 0.3 where the input is above 150 HU, of 0 elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        logit = torch.where(x > (150 + 160) / 400, np.log(0.3 / 0.7), -1e4)
        return torch.cat([torch.zeros_like(logit), logit], dim=1)


def test_each_stage_has_its_threshold(write_nifti, organ) -> None:
    scan = _scan(write_nifti, organ)

    def volumes(coarse_threshold: float, fine_threshold: float, mode: str = "auto") -> tuple[float, int]:
        coarse = _config((2.0, 2.0, 3.0), threshold=coarse_threshold)
        fine = _config(threshold=fine_threshold, fallback="none", mode=mode)
        result = Segmenter(Unsure(), fine, coarse=(Unsure(), coarse)).segment(scan)
        facts = result.provenance["cascade"]
        return facts["coarse_volume_ml"] if facts else 0.0, int(result.mask.sum())

    found = int((organ == 200).sum())
    assert volumes(0.5, 0.2) == (0.0, 0)
    assert volumes(0.2, 0.5)[0] > 0
    assert volumes(0.2, 0.5)[1] == 0
    assert volumes(0.2, 0.2)[1] == found
    assert volumes(0.2, 0.2, "full")[1] == found
    assert volumes(0.2, 0.5, "full")[1] == 0
