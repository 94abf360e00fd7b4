"""Metrics against closed forms, a plain slow version, and MONAI."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from numpy.typing import NDArray
from scipy import ndimage

from pancreas_seg.evaluation.metrics import Agreement, agreement, dice, surface_distances

SPACING = (3.0, 2.0, 1.0)
Masks = tuple[NDArray[np.bool_], NDArray[np.bool_]]


def empty(shape: tuple[int, int, int] = (12, 14, 16)) -> NDArray[np.bool_]:
    return np.zeros(shape, dtype=bool)


def cube(start: tuple[int, int, int], stop: tuple[int, int, int]) -> NDArray[np.bool_]:
    mask = empty()
    mask[start[0] : stop[0], start[1] : stop[1], start[2] : stop[2]] = True
    return mask


def random_blobs(seed: int, shape: tuple[int, int, int] = (21, 17, 13)) -> Masks:
    """Two similar smooth masks that touch the array's border in most draws."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=shape), 2.5, mode="nearest")
    change = ndimage.gaussian_filter(rng.normal(size=shape), 1.5, mode="nearest")
    return field > 0.6 * field.max(), field + 0.4 * change > 0.6 * field.max()


def plain(reference: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing: tuple[float, ...]) -> dict[str, float]:
    """The surface metrics by comparing all surface voxels with all."""

    def surface(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        points = []
        for voxel in np.argwhere(mask):
            for axis in range(3):
                for step in (-1, 1):
                    near = voxel.copy()
                    near[axis] += step
                    if not (0 <= near[axis] < mask.shape[axis]) or not mask[tuple(near)]:
                        points.append(tuple(voxel))
        return np.array(sorted(set(points))) * np.array(spacing)

    r, p = surface(reference), surface(prediction)
    pairs = np.sqrt(((r[:, None] - p[None]) ** 2).sum(axis=-1))
    out, back = pairs.min(axis=1), pairs.min(axis=0)
    both = np.concatenate([out, back])
    return {
        "nsd_1mm": float((both <= 1 + 1e-9).mean()),
        "nsd_2mm": float((both <= 2 + 1e-9).mean()),
        "hd95_mm": float(max(np.quantile(out, 0.95), np.quantile(back, 0.95))),
        "mean_surface_distance_mm": float(both.mean()),
    }


def by_monai(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing: tuple[float, ...]
) -> dict[str, float]:
    y, p = (torch.from_numpy(np.ascontiguousarray(m))[None, None].float() for m in (reference, prediction))
    kwargs = {"include_background": True, "spacing": spacing}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "nsd_1mm": compute_surface_dice(p, y, [1.0], **kwargs).item(),
            "nsd_2mm": compute_surface_dice(p, y, [2.0], **kwargs).item(),
            "hd95_mm": compute_hausdorff_distance(p, y, percentile=95, **kwargs).item(),
            "mean_surface_distance_mm": compute_average_surface_distance(p, y, symmetric=True, **kwargs).item(),
        }


@pytest.mark.parametrize(("axis", "shift_mm"), [(0, 9.0), (1, 6.0), (2, 3.0)])
def test_parallel_plates_are_as_far_apart_as_their_shift(axis: int, shift_mm: float) -> None:
    """Plates of one voxel, three voxels apart: each distance is three times that axis's spacing."""
    reference, prediction = empty(), empty()
    for mask, at in ((reference, 4), (prediction, 7)):
        index: list[slice | int] = [slice(None)] * 3
        index[axis] = at
        mask[tuple(index)] = True
    found = agreement(reference, prediction, SPACING, (shift_mm - 0.01, shift_mm))
    assert found.hd95_mm == pytest.approx(shift_mm)
    assert found.mean_surface_distance_mm == pytest.approx(shift_mm)
    assert found.nsd == {shift_mm - 0.01: 0.0, shift_mm: 1.0}
    assert (found.dice, found.iou, found.precision, found.recall) == (0.0, 0.0, 0.0, 0.0)


def test_a_shifted_cube() -> None:
    """4x4x4 voxels, shifted by 2 voxels of 1 mm: half of it overlaps."""
    masks = cube((3, 3, 3), (7, 7, 7)), cube((3, 3, 5), (7, 7, 9))
    found = agreement(*masks, SPACING)
    assert found.dice == pytest.approx(0.5)
    assert found.iou == pytest.approx(1 / 3)
    assert (found.precision, found.recall) == (0.5, 0.5)
    assert found.reference_ml == pytest.approx(64 * 6 / 1000)
    assert (found.volume_difference_ml, found.volume_difference_percent) == (0.0, 0.0)
    # Of a cube's 56 surface voxels, two rings of 12 lie on the other's hull, 12 are 1 mm and 16 are 2 mm before it; of
    # the far face's 16, 12 lie on it and 4 are 1 mm behind it.
    distances = [0.0] * 24 + [1.0] * 16 + [2.0] * 16
    assert [np.sort(d).tolist() for d in surface_distances(*masks, SPACING)] == [distances, distances]
    assert found.nsd == {1.0: 40 / 56, 2.0: 1.0}
    assert found.hd95_mm == 2.0
    assert found.mean_surface_distance_mm == pytest.approx(48 / 56)


def test_a_box_in_a_box() -> None:
    """The inner box is smaller by two voxels on each side: 6, 4 or 2 mm, of which 2 mm is the nearest way out."""
    outer, inner = cube((1, 1, 1), (10, 10, 10)), cube((3, 3, 3), (8, 8, 8))
    to_inner, to_outer = surface_distances(outer, inner, SPACING)
    assert len(to_inner) == 9**3 - 7**3
    assert len(to_outer) == 5**3 - 3**3
    assert to_inner.max() == pytest.approx(math.sqrt(6**2 + 4**2 + 2**2))
    assert to_outer.min() == pytest.approx(2.0)
    found = agreement(outer, inner, SPACING)
    assert (found.precision, found.recall) == (1.0, pytest.approx(5**3 / 9**3))
    assert found.volume_difference_percent == pytest.approx(100 * (5**3 / 9**3 - 1))
    assert found.volume_difference_ml == pytest.approx((5**3 - 9**3) * 6 / 1000)


def test_the_same_mask_twice() -> None:
    mask, _ = random_blobs(0)
    found = agreement(mask, mask, (0.7, 0.8, 2.5))
    assert (found.dice, found.iou, found.nsd, found.hd95_mm) == (1.0, 1.0, {1.0: 1.0, 2.0: 1.0}, 0.0)
    assert found.mean_surface_distance_mm == 0.0


@pytest.mark.parametrize("spacing", [(3.0, 2.0, 1.0), (0.8, 0.8, 1.5), (0.703125, 0.703125, 5.0)])
@pytest.mark.parametrize("seed", range(6))
def test_surfaces_as_by_monai_and_by_all_pairs(seed: int, spacing: tuple[float, float, float]) -> None:
    reference, prediction = random_blobs(seed)
    assert reference.any()
    assert prediction.any()
    found = agreement(reference, prediction, spacing).values()
    for peer in (by_monai(reference, prediction, spacing), plain(reference, prediction, spacing)):
        for name, value in peer.items():
            assert found[name] == pytest.approx(value, abs=1e-5), name
    assert found["dice"] == pytest.approx(dice(reference, prediction))


@pytest.mark.parametrize("seed", range(3))
def test_scattered_voxels_as_by_monai_and_by_all_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference, prediction = rng.random((9, 8, 7)) < 0.7, rng.random((9, 8, 7)) < 0.1
    found = agreement(reference, prediction, SPACING).values()
    for peer in (by_monai(reference, prediction, SPACING), plain(reference, prediction, SPACING)):
        for name, value in peer.items():
            assert found[name] == pytest.approx(value, abs=1e-5), name


def test_masks_at_the_border_of_the_array() -> None:
    """Outside counts as background: a mask that fills the array has the array's hull as its surface."""
    full, corner, plane = np.ones((6, 5, 4), dtype=bool), empty((6, 5, 4)), empty((6, 5, 4))
    corner[-1, 0, -1] = True
    plane[:, :, 0] = True
    for reference, prediction in ((full, corner), (corner, plane), (plane, full), (corner, corner)):
        found = agreement(reference, prediction, SPACING).values()
        for peer in (by_monai(reference, prediction, SPACING), plain(reference, prediction, SPACING)):
            for name, value in peer.items():
                assert found[name] == pytest.approx(value, abs=1e-5), name
    assert len(surface_distances(full, full, SPACING)[0]) == 6 * 5 * 4 - 4 * 3 * 2


def test_more_background_around_changes_nothing() -> None:
    reference, prediction = random_blobs(3)
    wide = [np.pad(mask, ((5, 0), (2, 9), (0, 4))) for mask in (reference, prediction)]
    assert agreement(*wide, SPACING) == agreement(reference, prediction, SPACING)


@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_layout_changes_nothing(order: str) -> None:
    reference, prediction = random_blobs(4)
    stored = [np.array(mask, order=order) for mask in (reference, prediction)]  # type: ignore[call-overload]
    assert agreement(stored[0], stored[1], SPACING) == agreement(reference, prediction, SPACING)
    assert agreement(reference.T, prediction.T, SPACING[::-1]).hd95_mm == pytest.approx(
        agreement(reference, prediction, SPACING).hd95_mm
    )


def test_arguments_stay_as_they_are() -> None:
    reference, prediction = random_blobs(5)
    before = reference.copy(), prediction.copy()
    for mask in (reference, prediction):
        mask.setflags(write=False)
    agreement(reference, prediction, SPACING)
    assert np.array_equal(reference, before[0])
    assert np.array_equal(prediction, before[1])


def test_a_tolerance_of_one_voxel_holds_for_spacings_stored_in_32_bits() -> None:
    stored = float(np.float32(0.8))
    assert stored > 0.8
    found = agreement(cube((3, 3, 3), (4, 7, 7)), cube((4, 3, 3), (5, 7, 7)), (stored, 1.0, 1.0), (0.8,))
    assert found.nsd[0.8] == 1.0


def test_both_empty() -> None:
    found = agreement(empty(), empty(), SPACING)
    assert found == Agreement(1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, {1.0: 1.0, 2.0: 1.0}, 0.0, 0.0)


def test_only_the_reference_is_empty() -> None:
    something = cube((2, 2, 2), (4, 4, 4))
    found = agreement(empty(), something, SPACING)
    assert (found.dice, found.iou, found.precision, found.recall) == (0.0, 0.0, 0.0, 0.0)
    assert (found.nsd, found.hd95_mm, found.mean_surface_distance_mm) == ({1.0: 0.0, 2.0: 0.0}, math.inf, math.inf)
    assert (found.reference_ml, found.prediction_ml) == (0.0, pytest.approx(0.048))
    assert (found.volume_difference_ml, found.volume_difference_percent) == (pytest.approx(0.048), math.inf)
    assert by_monai(empty(), something, SPACING)["mean_surface_distance_mm"] == math.inf


def test_only_the_prediction_is_empty() -> None:
    something = cube((2, 2, 2), (4, 4, 4))
    found = agreement(something, empty(), SPACING)
    assert (found.dice, found.iou, found.precision, found.recall) == (0.0, 0.0, 0.0, 0.0)
    assert (found.nsd, found.hd95_mm, found.mean_surface_distance_mm) == ({1.0: 0.0, 2.0: 0.0}, math.inf, math.inf)
    assert (found.volume_difference_ml, found.volume_difference_percent) == (pytest.approx(-0.048), -100.0)
    to_prediction, to_reference = surface_distances(something, empty(), SPACING)
    assert to_prediction.tolist() == [math.inf] * 8
    assert to_reference.shape == (0,)


def test_values_are_flat_and_plain_floats() -> None:
    reference, prediction = random_blobs(1)
    values = agreement(reference, prediction, SPACING, (1, 2.5)).values()
    assert {type(value) for value in values.values()} == {float}
    assert [name for name in values if name.startswith("nsd")] == ["nsd_1mm", "nsd_2.5mm"]


def test_wrong_arguments_are_refused() -> None:
    mask = empty()
    with pytest.raises(ValueError, match="shapes"):
        agreement(mask, mask[1:], SPACING)
    with pytest.raises(ValueError, match="shapes"):
        agreement(mask[0], mask[0], SPACING)
    with pytest.raises(ValueError, match="boolean"):
        agreement(mask.astype(np.uint8), mask, SPACING)
    with pytest.raises(ValueError, match="spacing_mm"):
        agreement(mask, mask, (1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="tolerances_mm"):
        agreement(mask, mask, SPACING, (-1.0,))
    with pytest.raises(ValueError, match="shapes"):
        dice(mask, mask[1:])


def test_dice_of_empty_masks() -> None:
    something = cube((2, 2, 2), (4, 4, 4))
    assert dice(empty(), empty()) == 1.0
    assert dice(something, empty()) == 0.0
