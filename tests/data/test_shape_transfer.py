from __future__ import annotations

import numpy as np
import pytest

from pancreas_seg.data.shape_transfer import VOLUME_RATIO, shape_transfer
from pancreas_seg.errors import InputError
from pancreas_seg.geometry import Geometry


def _grid(shape: tuple[int, int, int], spacing: tuple[float, float, float], origin=(0.0, 0.0, 0.0)) -> Geometry:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    return Geometry(shape, affine)


def _ellipsoid(grid: Geometry, centre, radii) -> np.ndarray:
    at = grid.world(np.moveaxis(np.indices(grid.shape), 0, -1))
    return (((at - centre) / radii) ** 2).sum(-1) <= 1


GRID = _grid((80, 60, 40), (2.0, 2.0, 3.0), (-80, -60, -60))
OTHER = _grid((100, 70, 90), (1.5, 2.0, 1.0), (300, 20, -40))


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize(
    ("radii", "expected"),
    [((40, 15, 15), "along x"), ((18, 32, 15), "along y"), ((18, 15, 32), "along z")],
)
def test_the_organ_takes_the_other_shape(radii, expected) -> None:
    """The three directions one by one: an axis that is mixed up, or a sign, would make the shape worse."""
    organ = _ellipsoid(GRID, (0, 0, 0), (22, 22, 22))
    other = _ellipsoid(OTHER, (370, 90, 5), radii)
    found = shape_transfer(organ, GRID, other, OTHER)
    ratio = np.clip(other.sum() * OTHER.voxel_ml / (organ.sum() * GRID.voxel_ml), *VOLUME_RATIO)
    scale = (ratio * organ.sum() * GRID.voxel_ml / (other.sum() * OTHER.voxel_ml)) ** (1 / 3)
    goal = _ellipsoid(GRID, (0, 0, 0), np.asarray(radii) * scale)
    moved = found.apply(organ.astype(np.uint8), GRID, labels=True) == 1
    assert _dice(moved, goal) > max(0.85, _dice(organ, goal) + 0.1), expected
    assert found.overlap == pytest.approx(_dice(moved, goal), abs=0.08)


def test_image_and_labels_move_together_and_far_away_nothing_does() -> None:
    organ = _ellipsoid(GRID, (0, 0, 0), (22, 22, 22))
    found = shape_transfer(organ, GRID, _ellipsoid(OTHER, (370, 90, 5), (40, 15, 15)), OTHER)
    image = np.where(organ, 100, -50).astype(np.int16)
    image[0], image[-1] = 300, -200
    moved = found.apply(image, GRID, labels=False)
    labels = found.apply(organ.astype(np.uint8), GRID, labels=True)
    assert labels.dtype == np.uint8
    assert ((moved[1:-1] > 25) == (labels[1:-1] == 1)).mean() > 0.995
    assert moved.min() >= -200
    assert moved.max() <= 300
    assert np.array_equal(moved[0], image[0])
    assert np.array_equal(moved[-1], image[-1])


def test_half_the_way_is_half_the_field() -> None:
    organ = _ellipsoid(GRID, (0, 0, 0), (22, 22, 22))
    other = _ellipsoid(OTHER, (370, 90, 5), (34, 17, 17))
    whole, half = (shape_transfer(organ, GRID, other, OTHER, amount) for amount in (1.0, 0.5))
    np.testing.assert_allclose(half.field_mm, whole.field_mm / 2, atol=1e-5)


def test_the_same_shape_moves_nothing() -> None:
    organ = _ellipsoid(GRID, (0, 0, 0), (30, 18, 20))
    found = shape_transfer(organ, GRID, organ, GRID)
    assert np.abs(found.field_mm).max() < 0.5
    assert found.overlap > 0.99


def test_nothing_is_turned_inside_out() -> None:
    """Four times the way to the other shape would fold the field: it is weakened until no place changes too much."""
    organ = _ellipsoid(GRID, (0, 0, 0), (22, 22, 22))
    found = shape_transfer(organ, GRID, _ellipsoid(OTHER, (370, 90, 5), (40, 15, 15)), OTHER, amount=4.0)
    step = np.diag(found.grid.affine)[0]
    jacobian = np.stack([np.stack(np.gradient(part, step), -1) for part in found.field_mm], -2)
    change = np.linalg.det(jacobian + np.eye(3))
    assert change.min() > 0.149
    assert change.max() < 6.01
    assert np.abs(found.field_mm).max() > 5


def test_a_much_larger_shape_is_scaled_to_twice_the_volume() -> None:
    organ = _ellipsoid(GRID, (0, 0, 0), (18, 18, 18))
    found = shape_transfer(organ, GRID, _ellipsoid(OTHER, (370, 90, 5), (42, 42, 42)), OTHER)
    moved = found.apply(organ.astype(np.uint8), GRID, labels=True)
    assert moved.sum() / organ.sum() == pytest.approx(VOLUME_RATIO[1], rel=0.15)


@pytest.mark.parametrize("which", ["empty", "turned"])
def test_unfit_masks_are_refused(which: str) -> None:
    organ = _ellipsoid(GRID, (0, 0, 0), (22, 22, 22))
    turned = Geometry(GRID.shape, np.diag([-2.0, 2.0, 3.0, 1.0]))
    with pytest.raises(InputError, match="input.shape_transfer"):
        shape_transfer(organ & (which != "empty"), turned if which == "turned" else GRID, organ, GRID)
