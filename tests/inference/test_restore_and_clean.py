from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from pancreas_seg.config import CleanConfig
from pancreas_seg.geometry import Box, Geometry
from pancreas_seg.inference.clean import clean_mask, count_components
from pancreas_seg.inference.restore import restore_mask, restore_probability
from pancreas_seg.network.decision import decided
from pancreas_seg.resampling import resample


def _blobs(shape: tuple[int, int, int], channels: int, seed: int = 0) -> np.ndarray:
    """Smooth channels that sum to at most 1."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    fields = np.stack([gaussian_filter(rng.normal(size=shape), 2) for _ in range(channels + 1)])
    fields[0] += 0.03
    p = np.exp(60 * fields)
    return (p / p.sum(0))[1:].astype(np.float32)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spacing", [(1.0, 1.3, 0.7), (3.0, 2.5, 4.0)])
def test_the_box_changes_nothing(channels: int, spacing, reorient) -> None:
    """Restoring in the box gives the mask that resampling every probability everywhere gives."""
    probabilities = _blobs((14, 12, 10), channels)
    model = Geometry((14, 12, 10), np.diag([2.0, 2.0, 2.0, 1.0]))
    shape = tuple(int((n - 1) * 2 / s) + 1 for n, s in zip(model.shape, spacing, strict=True))
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (0.3, -0.4, 0.2)
    empty, affine = reorient(np.zeros(shape), affine)
    target = Geometry(empty.shape, affine)
    mask, box = restore_mask(probabilities, model, target)
    everywhere = [resample(p, model, target, "linear", fill=None) for p in probabilities]
    slow = np.stack([1 - np.sum(everywhere, axis=0), *everywhere]).argmax(0)
    assert (slow > 0).any()
    # Linear interpolation in another order of axes rounds differently in the last bit.
    assert (mask != slow).sum() <= 1
    assert box == Box.around(mask > 0)


def test_foreground_reaches_past_the_voxels_that_hold_it() -> None:
    """One certain voxel among nearly even ones is foreground almost up to its neighbours' centres."""
    p = np.full((1, 9, 9, 9), 0.45, np.float32)
    p[0, 4, 4, 4] = 1.0
    model = Geometry((9, 9, 9), np.eye(4))
    fine = Geometry((81, 81, 81), np.diag([0.1, 0.1, 0.1, 1.0]))
    mask, box = restore_mask(p, model, fine)
    np.testing.assert_array_equal(mask, resample(p[0], model, fine, "linear") > 0.5)
    assert box == Box((31, 31, 31), (50, 50, 50))  # 0.9 voxels to each side


def test_empty_stays_empty() -> None:
    model = Geometry((5, 5, 5), np.eye(4))
    mask, box = restore_mask(np.full((1, 5, 5, 5), 0.5, np.float32), model, model)
    assert box is None
    assert not mask.any()


def test_foreground_outside_the_target_is_dropped() -> None:
    p = np.zeros((1, 20, 5, 5), np.float32)
    p[0, 15:] = 1
    mask, box = restore_mask(p, Geometry((20, 5, 5), np.eye(4)), Geometry((8, 5, 5), np.eye(4)))
    assert box is None
    assert not mask.any()


def test_borders_fall_between_voxels() -> None:
    """A step between model voxels 2 and 3 lies at 2.5: on a grid ten times finer, half of the gap is foreground."""
    p = np.zeros((1, 6, 1, 1), np.float32)
    p[0, :3] = 1
    fine = Geometry((60, 1, 1), np.diag([0.1, 1, 1, 1.0]))
    mask, _ = restore_mask(p, Geometry((6, 1, 1), np.eye(4)), fine)
    assert mask.sum() == 25
    on_fine = restore_probability(p[0], Geometry((6, 1, 1), np.eye(4)), fine)
    assert on_fine[22, 0, 0] == pytest.approx(0.8, abs=1e-5)


def _mask() -> np.ndarray:
    mask = np.zeros((12, 12, 6), np.uint8)
    mask[1:6, 1:6, 1:5] = 1
    mask[3, 3, 2] = 0  # a hole
    mask[8:10, 8:10, 1:3] = 1  # 8 voxels
    mask[11, 11, 5] = 1  # 1 voxel
    mask[8, 1, 1] = 2
    return mask


def test_cleaning_keeps_the_largest_component_and_fills_holes() -> None:
    out = clean_mask(_mask(), 0.001, CleanConfig(minimum_volume_ml=0.0, keep_fraction=1.0))
    assert (out == 1).sum() == 100
    assert out[3, 3, 2] == 1
    assert out[8, 1, 1] == 2


@pytest.mark.parametrize(("fraction", "pieces"), [(0.0, 3), (0.05, 2), (0.09, 1)])
def test_pieces_of_a_share_of_the_largest_stay(fraction: float, pieces: int) -> None:
    out = clean_mask(_mask(), 0.001, CleanConfig(minimum_volume_ml=0.0, keep_fraction=fraction))
    assert count_components(out == 1) == pieces


def test_small_components_go_even_if_all_are_kept() -> None:
    out = clean_mask(_mask(), 0.001, CleanConfig(keep_fraction=0.0, fill_holes=False, minimum_volume_ml=0.005))
    assert (out == 1).sum() == 99 + 8
    assert (out == 2).sum() == 0


def test_a_mask_below_the_minimum_is_emptied() -> None:
    assert not clean_mask(_mask(), 0.001, CleanConfig(minimum_volume_ml=1.0)).any()


def test_holes_are_not_filled_over_another_label() -> None:
    mask = _mask()
    mask[3, 3, 2] = 2
    out = clean_mask(mask, 0.001, CleanConfig(minimum_volume_ml=0.0, keep_fraction=0.0))
    assert out[3, 3, 2] == 2


def test_diagonal_neighbours_are_connected() -> None:
    mask = np.zeros((3, 3, 3), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    assert count_components(mask) == 1


def test_holes_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for n in range(20):
        mask = ndimage.gaussian_filter(rng.normal(size=(12, 10, 8)), 1.0) > (-0.1 + 0.02 * n)
        expected = ndimage.binary_fill_holes(mask)
        found = clean_mask(mask.astype(np.uint8), 0.001, CleanConfig(keep_fraction=0.0, minimum_volume_ml=0.0))
        np.testing.assert_array_equal(found > 0, expected)
    assert ndimage.binary_fill_holes(mask).sum() >= mask.sum()


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_one_class_wins_above_the_threshold(threshold: float) -> None:
    p = np.random.default_rng(0).random((1, 6, 5, 4)).astype(np.float32)
    np.testing.assert_array_equal(decided(p, threshold) == 1, p[0] > threshold)
    grid = Geometry((6, 5, 4), np.eye(4))
    mask, _ = restore_mask(p, grid, grid, threshold)
    np.testing.assert_array_equal(mask == 1, p[0] > threshold)


def test_of_several_classes_the_most_probable_wins_where_the_background_does_not() -> None:
    p = np.array([[0.2, 0.1, 0.4], [0.15, 0.3, 0.1]], dtype=np.float32).reshape(2, 3, 1, 1)
    assert decided(p)[:, 0, 0].tolist() == [0, 0, 0]
    assert decided(p, 0.2)[:, 0, 0].tolist() == [1, 2, 1]
