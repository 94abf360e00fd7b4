from __future__ import annotations

import numpy as np
import pytest

from pancreas_seg.errors import InputError
from pancreas_seg.geometry import Box, Geometry
from pancreas_seg.resampling import resample


def _affine(spacing=(2.0, 2.0, 3.0), origin=(5.0, -7.0, 11.0)) -> np.ndarray:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    return affine


def test_spacing_volume_and_orientation() -> None:
    affine = np.zeros((4, 4))
    affine[:3, 0], affine[:3, 1], affine[:3, 2], affine[3, 3] = (0, 0, -3), (-2, 0, 0), (0, 1, 0), 1
    grid = Geometry((4, 5, 6), affine)
    assert grid.spacing_mm == (3.0, 2.0, 1.0)
    assert grid.voxel_ml == pytest.approx(0.006)
    assert grid.orientation == "ILA"


def test_world_and_index_are_inverse() -> None:
    grid = Geometry((4, 5, 6), _affine())
    assert grid.world((1, 2, 3)).tolist() == [7.0, -3.0, 20.0]
    points = np.random.default_rng(0).uniform(-50, 50, (10, 3))
    np.testing.assert_allclose(grid.world(grid.index(points)), points)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda a: a.__setitem__((0, 0), np.nan), "input.affine_invalid"),
        (lambda a: a.__setitem__((3, 0), 1.0), "input.affine_invalid"),
        (lambda a: a.__setitem__((slice(0, 3), 1), 0.0), "input.affine_singular"),
        (lambda a: a.__setitem__((slice(0, 3), 1), a[:3, 0]), "input.affine_singular"),
        (lambda a: a.__setitem__((0, 1), 0.1), "input.affine_sheared"),
    ],
)
def test_unsound_affines_are_refused(change, code: str) -> None:
    affine = _affine()
    change(affine)
    with pytest.raises(InputError) as caught:
        Geometry((4, 5, 6), affine)
    assert caught.value.code == code


def test_empty_grid_is_refused() -> None:
    with pytest.raises(InputError, match="input.empty"):
        Geometry((4, 0, 6), _affine())


def test_box_around_and_crop() -> None:
    mask = np.zeros((6, 7, 8), dtype=bool)
    mask[2:4, 3, 5:8] = True
    box = Box.around(mask)
    assert box == Box((2, 3, 5), (4, 4, 8))
    assert mask[box.slices].all()
    assert Box.around(np.zeros((2, 2, 2), dtype=bool)) is None
    grid = Geometry((6, 7, 8), _affine())
    np.testing.assert_allclose(grid.crop(box).world((0, 0, 0)), grid.world((2, 3, 5)))
    assert grid.box_mm(box) == ((8.0, -2.0, 24.5), (12.0, 0.0, 33.5))
    assert box.grown((1, 9, 0), grid.shape) == Box((1, 0, 5), (5, 7, 8))


def _slow_linear(array: np.ndarray, source: Geometry, target: Geometry) -> np.ndarray:
    """Trilinear interpolation voxel by voxel, zero outside, border repeated within half a voxel."""
    out = np.zeros(target.shape, dtype=np.float64)
    for index in np.ndindex(target.shape):
        at = source.index(target.world(index))
        if (at < -0.5).any() or (at > np.array(source.shape) - 0.5).any():
            continue
        low = np.floor(at).astype(int)
        for corner in np.ndindex(2, 2, 2):
            weight = np.prod([w if c else 1 - w for c, w in zip(corner, at - low, strict=True)])
            place = tuple(np.clip(low + corner, 0, np.array(source.shape) - 1))
            out[index] += weight * array[place]
    return out


def test_linear_resampling_agrees_with_the_slow_way(reorient) -> None:
    rng = np.random.default_rng(3)
    array, affine = reorient(rng.normal(size=(5, 4, 6)), _affine((2.0, 3.0, 1.5)))
    source = Geometry(array.shape, affine)
    target = Geometry((6, 7, 4), _affine((1.7, 1.1, 2.9), (4.0, -8.0, 10.5)))
    got = resample(array, source, target, "linear")
    np.testing.assert_allclose(got, _slow_linear(array, source, target), atol=1e-5)


def test_nearest_resampling_keeps_labels_and_dtype() -> None:
    labels = np.random.default_rng(1).integers(0, 5, (5, 6, 7)).astype(np.uint8)
    source = Geometry(labels.shape, _affine())
    fine = Geometry((10, 12, 21), _affine((1.0, 1.0, 1.0), (4.5, -7.5, 10.0)))
    got = resample(labels, source, fine, "nearest")
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, labels.repeat(2, 0).repeat(2, 1).repeat(3, 2))


def test_outside_is_filled_or_repeats_the_border() -> None:
    array = np.arange(4, dtype=np.float32).reshape(4, 1, 1)
    source = Geometry((4, 1, 1), np.eye(4))
    wide = Geometry((8, 1, 1), _affine((1, 1, 1), (-2, 0, 0)))
    assert resample(array, source, wide, "linear", fill=-9).ravel().tolist() == [-9, -9, 0, 1, 2, 3, -9, -9]
    assert resample(array, source, wide, "linear", fill=None).ravel().tolist() == [0, 0, 0, 1, 2, 3, 3, 3]


def test_oblique_pairs_are_interpolated_too() -> None:
    turned = _affine((1, 1, 1), (0, 0, 0))
    turned[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    source = Geometry((20, 20, 5), _affine((1, 1, 1), (0, 0, 0)))
    target = Geometry((6, 6, 5), turned)
    ramp = np.fromfunction(lambda i, j, k: i + 10 * j, source.shape)
    got = resample(ramp, source, target, "linear")
    inside = target.world(np.stack(np.meshgrid(*map(range, target.shape), indexing="ij"), -1))
    expected = inside[..., 0] + 10 * inside[..., 1]
    safe = (inside[..., 0] >= 0) & (inside[..., 1] >= 0)
    np.testing.assert_allclose(got[safe], expected[safe], atol=1e-4)


def _averaged_slowly(values: np.ndarray, position: np.ndarray) -> np.ndarray:
    """The linear interpolant, averaged over √(step² - 1) voxels by 2,000 samples."""
    width = np.sqrt((position[1] - position[0]) ** 2 - 1)
    offsets = (np.arange(2000) + 0.5) / 2000 * width - width / 2
    return np.interp(position[:, None] + offsets, np.arange(len(values)), values).mean(axis=1)


@pytest.mark.parametrize("step", [1.07, 1.5, 2.0, 4.3])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_antialiased_is_the_average_of_the_interpolant(step: float, axis: int) -> None:
    rng = np.random.default_rng(0)
    shape = [3, 3, 3]
    shape[axis] = 29
    array = rng.normal(size=shape).astype(np.float32)
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = step
    target = [3, 3, 3]
    target[axis] = int(28 / step) + 1
    out = resample(
        array, Geometry(tuple(shape), np.eye(4)), Geometry(tuple(target), np.diag([*spacing, 1.0])), "antialiased", None
    )
    lines = np.moveaxis(array, axis, -1).reshape(-1, 29)
    expected = [_averaged_slowly(line, np.arange(target[axis]) * step) for line in lines]
    np.testing.assert_allclose(np.moveaxis(out, axis, -1).reshape(9, -1), expected, atol=2e-3)


def test_antialiased_is_linear_where_the_target_is_finer(oblique_volume) -> None:
    array, affine = oblique_volume
    source = Geometry(array.shape, affine)
    finer = affine.copy()
    finer[:3, :3] *= 0.7
    target = Geometry(array.shape, finer)
    np.testing.assert_array_equal(
        resample(array, source, target, "antialiased"), resample(array, source, target, "linear")
    )


def test_antialiased_needs_parallel_axes() -> None:
    turned = np.eye(4)
    turned[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    with pytest.raises(ValueError, match="parallel"):
        resample(np.zeros((9, 9, 9)), Geometry((9, 9, 9), np.eye(4)), Geometry((9, 9, 9), turned), "antialiased")
