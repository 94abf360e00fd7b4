from __future__ import annotations

import numpy as np
import pytest
import torch

from pancreas_seg.config import Config
from pancreas_seg.data.augment import MARGIN, RandLowResolutiond, RandOrganShiftd, RandSharpend, augmentation
from pancreas_seg.data.model_grid import model_input
from pancreas_seg.data.transforms import (
    CENTRES,
    IMAGE,
    LABEL,
    LABELLED,
    ReadCased,
    as_metatensor,
    class_table,
    preprocessing,
    training_volume,
)
from pancreas_seg.errors import InputError
from pancreas_seg.geometry import Geometry
from pancreas_seg.io import Scan, read_ct


def _config(**data) -> Config:
    return Config().changed({"data": data})


def _scan(array: np.ndarray, affine: np.ndarray) -> Scan:
    return Scan(array.astype(np.float32), Geometry(array.shape, affine), None, "")  # type: ignore[arg-type]


def test_model_input_is_the_same_for_all_orientations(oblique_volume, reorient) -> None:
    """With a spacing that divides the extent, the model grid is the same from whichever end it starts."""
    config = _config(spacing_mm=[1.0, 1.7, 2.6], window_hu=[-1000, 300])
    base, base_grid = model_input(_scan(*oblique_volume), config)
    image, grid = model_input(_scan(*reorient(*oblique_volume)), config)
    assert grid.orientation == "RAS"
    assert grid.shape == (10, 8, 6)
    assert grid.same_grid(base_grid, 1e-4)
    np.testing.assert_allclose(image, base, atol=1e-3)


def test_the_grid_says_where_the_values_lie() -> None:
    """A world-linear image stays world-linear: each value of the model grid equals the ramp at its own place."""
    affine = np.diag([-0.8, 0.9, 2.5, 1.0])
    affine[:3, 3] = (40, -30, 10)
    grid = Geometry((60, 50, 20), affine)
    index = np.stack(np.meshgrid(*map(range, grid.shape), indexing="ij"), -1)
    ramp = grid.world(index) @ (1.0, 2.0, 3.0)
    config = _config(spacing_mm=[2.0, 2.0, 3.0], window_hu=[-500, 500])
    image, model = model_input(_scan(ramp, affine), config)
    at = model.world(np.stack(np.meshgrid(*map(range, model.shape), indexing="ij"), -1))
    # At the border voxels are averaged with their repetition.
    inside = (grid.index(at) >= 2).all(-1) & (grid.index(at) <= np.array(grid.shape) - 3).all(-1)
    assert inside.mean() > 0.6
    np.testing.assert_allclose(image[0][inside] * 1000 - 500, (at @ (1.0, 2.0, 3.0))[inside], atol=0.05)


def test_window_becomes_0_to_1() -> None:
    values = np.array([-1000, -160, 40, 240, 3000.0]).repeat(8).reshape(5, 2, 4)
    image, _ = model_input(_scan(values, np.eye(4)), _config(spacing_mm=[1.0, 1.0, 1.0]))
    np.testing.assert_allclose(image[0, :, 0, 0], [0, 0, 0.5, 1, 1])


def test_training_sees_what_segmenting_sees(write_nifti) -> None:
    rng = np.random.default_rng(0)
    path = write_nifti(rng.integers(-200, 300, (20, 18, 12)).astype(np.int16))
    labels = write_nifti((rng.random((20, 18, 12)) > 0.9).astype(np.uint8), name="label.nii.gz")
    config = _config(spacing_mm=[3.0, 3.0, 3.0])
    volume = training_volume(config)({IMAGE: path, LABEL: labels, "label_names": {1: "pancreas"}})
    image, _ = model_input(read_ct(path), config)
    assert volume[IMAGE].dtype == torch.float16
    torch.testing.assert_close(volume[IMAGE].float(), torch.from_numpy(image), atol=5e-4, rtol=1e-3)
    assert volume[LABEL].dtype == torch.uint8
    np.testing.assert_array_equal(volume[CENTRES].numpy(), np.argwhere(volume[LABEL][0].numpy() == 1))
    assert len(volume[CENTRES])


def test_labels_stay_labels() -> None:
    labels = np.random.default_rng(0).integers(0, 9, (10, 9, 8))
    grid = Geometry(labels.shape, np.diag([1.3, 1.1, 2.0, 1.0]))
    both = {IMAGE: as_metatensor(labels * 0.0, grid), LABEL: as_metatensor(labels, grid)}
    out = preprocessing(_config(spacing_mm=[1.0, 1.0, 1.0]), with_label=True)(both)[LABEL]
    assert set(np.unique(out.numpy())) <= set(range(9))


def test_labels_of_thick_slices_become_no_staircase() -> None:
    """A slope of 1 voxel a slice, cut into slices of 5 mm: on 1 mm slices its edge moves by 0.2 voxel each."""
    labels = np.zeros((40, 4, 20))
    for k in range(20):
        labels[: 10 + k, :, k] = 1
    grid = Geometry(labels.shape, np.diag([1.0, 1.0, 5.0, 1.0]))
    both = {IMAGE: as_metatensor(labels, grid), LABEL: as_metatensor(labels, grid)}
    out = preprocessing(_config(spacing_mm=[0.2, 1.0, 1.0]), with_label=True)(both)[LABEL][0].numpy()
    edges = out[:, 0].sum(axis=0) * 0.2
    assert np.diff(edges).max() <= 0.41
    assert np.diff(edges).min() >= 0


def test_labels_follow_the_largest_share() -> None:
    """Eight voxels become one: the value that most of them have wins."""
    labels = np.zeros((4, 4, 4))
    labels[:2, :2, :2] = [[[7, 7], [7, 3]], [[3, 7], [7, 0]]]
    labels = labels.repeat(2, 0).repeat(2, 1).repeat(2, 2).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    grid = Geometry(labels.shape, np.eye(4))
    both = {IMAGE: as_metatensor(labels, grid), LABEL: as_metatensor(labels, grid)}
    out = preprocessing(_config(spacing_mm=[5.0, 5.0, 5.0]), with_label=True)(both)[LABEL][0].numpy()
    assert set(np.unique(out)) <= {0, 3, 7}
    assert out[0, 0, 0] == 7


def test_noise_is_averaged_not_sampled() -> None:
    noise = np.random.default_rng(0).normal(0, 20, (64, 64, 64))
    image, _ = model_input(_scan(noise, np.eye(4)), _config(spacing_mm=[4.0, 4.0, 4.0], window_hu=[-500, 500]))
    sigma = float(image.std()) * 1000
    assert 20 / 4**1.5 * 0.8 < sigma < 20 / 4**1.5 * 1.2


def test_which_classes_a_case_is_labelled_for(write_nifti) -> None:
    config = _config(classes=["pancreas", "liver", "spleen"], spacing_mm=[2.0, 2.0, 3.0])
    ct = write_nifti(np.arange(120).reshape(6, 5, 4).astype(np.int16))
    values = np.zeros((6, 5, 4), np.uint8)
    values[0], values[1], values[2] = 1, 2, 9
    label = write_nifti(values, name="label.nii.gz")
    volume = training_volume(config)(
        {IMAGE: ct, LABEL: label, "label_names": {1: "pancreas", 2: "spleen", 9: "ignore"}}
    )
    assert volume[LABELLED].tolist() == [True, True, False, True]
    assert [int(volume[LABEL][0, i].unique()) for i in range(4)] == [1, 3, 255, 0]


def test_class_table() -> None:
    config = _config(classes=["pancreas", "kidney"], merge={"kidney": ["kidney_left", "kidney_right"]})
    names = {2: "pancreas", 3: "kidney_left", 5: "kidney_right", 6: "liver"}
    assert class_table(names, config).tolist() == [0, 0, 1, 2, 0, 2, 0]
    merged = _config(classes=["pancreas"])
    assert class_table({1: "pancreas", 2: "cancer"}, merged).tolist() == [0, 1, 1]
    own = _config(classes=["pancreas", "cancer"])
    assert class_table({1: "pancreas", 2: "cancer"}, own).tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="input.labels_without_class"):
        class_table({1: "liver"}, config)


def test_a_label_on_another_grid_is_refused(write_nifti) -> None:
    ct = write_nifti(np.arange(60).reshape(3, 4, 5).astype(np.int16))
    moved = np.diag([2.0, 2.0, 3.0, 1.0])
    moved[0, 3] = 1.0
    label = write_nifti(np.ones((3, 4, 5), np.uint8), moved, name="label.nii.gz")
    with pytest.raises(InputError, match="input.grids_differ"):
        ReadCased(Config())({IMAGE: ct, LABEL: label, "label_names": {1: "pancreas"}})


def _sample(shape: tuple[int, ...], seed: int = 0) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    label = np.zeros((1, *shape), np.uint8)
    label[(0, *(slice(n // 3, n // 2) for n in shape))] = 1
    image = 0.3 + 0.4 * label + 0.01 * rng.random((1, *shape))
    return {IMAGE: torch.from_numpy(image).float(), LABEL: torch.from_numpy(label)}


@pytest.mark.parametrize("size", [[16, 12, 8], [16, 12]])
def test_augmentation_moves_image_and_label_together(size: list[int]) -> None:
    config = Config().changed(
        {
            "network": {"spatial_dims": len(size)},
            "data": {"patch_size": size, "spacing_mm": [2.0, 2.0, 2.0]},
            "augment": {
                "affine_probability": 1.0,
                "elastic_probability": 1.0,
                "noise_probability": 0.0,
                "contrast_probability": 0.0,
                "lowres_probability": 0.0,
            },
        }
    )
    random = augmentation(config)
    changed = 0
    for seed in range(20):
        sample = _sample(tuple(int(np.ceil(n * MARGIN)) for n in size))
        random.set_random_state(seed=seed)
        out = random(sample)
        assert tuple(out[IMAGE].shape) == tuple(out[LABEL].shape) == (1, *size)
        bright = out[IMAGE] > 0.5
        changed += int(not torch.equal(out[LABEL], _centre(sample[LABEL], size)))
        # Linear and nearest interpolation may differ at the body's border only.
        assert (bright != (out[LABEL] == 1)).float().mean() < 0.02
    assert changed >= 15


def _centre(x: torch.Tensor, size: list[int]) -> torch.Tensor:
    for axis, n in enumerate(size, start=1):
        x = x.narrow(axis, (x.shape[axis] - n) // 2, n)
    return x


_CHANGES = ("affine", "elastic", "organ", "bias", "noise", "contrast", "sharpen", "lowres", "mirror")
_OFF = {f"{name}_probability": 0.0 for name in _CHANGES}


@pytest.mark.parametrize("size", [[16, 12, 8], [16, 12]])
@pytest.mark.parametrize("name", ["none", *(key.removesuffix("_probability") for key in _OFF)])
def test_each_augmentation_does_something_by_itself(name: str, size: list[int]) -> None:
    settings = dict(_OFF) if name == "none" else {**_OFF, f"{name}_probability": 1.0}
    config = Config().changed(
        {"network": {"spatial_dims": len(size)}, "data": {"patch_size": size}, "augment": settings}
    )
    sample = _sample(tuple(int(np.ceil(n * MARGIN)) for n in size))
    random = augmentation(config)
    same = []
    for seed in range(5):
        random.set_random_state(seed=seed)
        image = torch.as_tensor(random({k: v.clone() for k, v in sample.items()})[IMAGE])
        same.append(torch.equal(image, _centre(sample[IMAGE], size)))
    assert all(same) if name == "none" else not all(same)


def test_organs_change_by_an_offset_each_and_the_background_by_none() -> None:
    label = torch.zeros(1, 24, 10, 10, dtype=torch.uint8)
    label[:, :6], label[:, 6:12], label[:, 12:18] = 1, 2, 255
    shift = RandOrganShiftd(1.0, (0.1, 0.3))
    drawn = []
    for seed in range(200):
        shift.set_random_state(seed=seed)
        image = shift({IMAGE: torch.full((1, 24, 10, 10), 0.5), LABEL: label})[IMAGE]
        inner = [float(image[0, start + 1 : start + 5].std()) for start in (0, 6, 12, 18)]
        assert max(inner) < 1e-6
        assert image[0, 20, 5, 5] == image[0, 15, 5, 5] == 0.5
        drawn.append([float(image[0, 2, 5, 5]) - 0.5, float(image[0, 8, 5, 5]) - 0.5])
    assert np.std(drawn, axis=0) == pytest.approx([0.1, 0.3], rel=0.15)
    assert abs(np.corrcoef(np.transpose(drawn))[0, 1]) < 0.2


def test_hollow_organs_have_a_spread_of_their_own() -> None:
    settings = {**_OFF, "organ_probability": 1.0, "organ_hu": 0.0, "hollow_hu": 80.0}
    data = {"patch_size": [12, 6, 6], "spacing_mm": [2.0] * 3, "classes": ["pancreas", "stomach"]}
    random = augmentation(Config().changed({"data": data, "augment": settings}))
    label = torch.zeros(1, 12, 6, 6)
    label[:, :4], label[:, 8:] = 1, 2
    drawn = []
    for seed in range(50):
        random.set_random_state(seed=seed)
        image = torch.as_tensor(random({IMAGE: torch.full((1, 12, 6, 6), 0.5), LABEL: label.clone()})[IMAGE])
        assert image[0, 1, 3, 3] == 0.5
        drawn.append(float(image[0, 10, 3, 3]))
    assert np.std(drawn) == pytest.approx(80 / 400, rel=0.25)


def test_mirroring_is_off_by_default_and_is_left_right() -> None:
    assert Config().augment.mirror_probability == 0.0
    config = Config().changed({"data": {"patch_size": [4, 4, 4]}, "augment": {**_OFF, "mirror_probability": 1.0}})
    sample = {IMAGE: torch.arange(64.0).reshape(1, 4, 4, 4), LABEL: torch.zeros(1, 4, 4, 4)}
    torch.testing.assert_close(torch.as_tensor(augmentation(config)(sample)[IMAGE]), sample[IMAGE].flip(1))


@pytest.mark.parametrize("dims", [2, 3])
def test_sharpening_steepens_edges_along_one_axis_and_leaves_flat_places(dims: int) -> None:
    axes = torch.meshgrid(*[torch.arange(12.0)] * dims, indexing="ij")
    edges = sum(torch.tanh(a - 5.5) for a in axes)[None]
    sharpen = RandSharpend(1.0, 2.0)
    seen = set()
    for seed in range(30):
        sharpen.set_random_state(seed=seed)
        added = sharpen({IMAGE: edges.clone()})[IMAGE] - edges
        spread = [float((added - added.mean(axis, keepdim=True)).abs().max()) for axis in range(1, dims + 1)]
        (axis,) = [n for n, value in enumerate(spread) if value > 1e-3]
        profile = added.movedim(axis + 1, -1).reshape(-1, 12)[0]
        assert profile[5] < 0 < profile[6]
        assert profile[[0, 11]].abs().max() < 1e-3
        seen.add(axis)
    assert seen == set(range(dims))


@pytest.mark.parametrize("dims", [2, 3])
def test_low_resolution_does_not_move_the_image(dims: int) -> None:
    axes = torch.meshgrid(*[torch.arange(24.0)] * dims, indexing="ij")
    ball = torch.exp(-sum((a - 11.5) ** 2 for a in axes) / 18)[None]
    for seed in range(10):
        lower = RandLowResolutiond(1.0, 0.5)
        lower.set_random_state(seed=seed)
        out = lower({IMAGE: ball})[IMAGE][0]
        for axis in axes:
            assert float((out * axis).sum() / out.sum()) == pytest.approx(11.5, abs=0.02)
