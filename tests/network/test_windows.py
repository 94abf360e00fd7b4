from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from numpy.typing import NDArray

from pancreas_seg.config import Config
from pancreas_seg.geometry import Box
from pancreas_seg.network.windows import neighbour_channels, plan_windows, sweep


def _config(dims: int, size: list[int], **infer) -> Config:
    return Config().changed(
        {"network": {"spatial_dims": dims}, "data": {"patch_size": size}, "infer": {"precision": "fp32", **infer}}
    )


def _image(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(0.1, 1, (1, *shape)).astype(np.float32)


def _same(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    return windows[:, :1]


@pytest.mark.parametrize("shape", [(8, 8, 8), (20, 13, 9), (5, 30, 4)])
@pytest.mark.parametrize(("dims", "size"), [(3, [8, 8, 8]), (2, [8, 8]), (2, [64, 64])])
@pytest.mark.parametrize("blend", ["gaussian", "constant"])
def test_every_voxel_comes_back_in_its_place(shape, dims: int, size: list[int], blend: str) -> None:
    image = _image(*shape)
    done: list[tuple[int, int]] = []
    config = _config(dims, size, blend=blend)
    out = sweep(_same, image, config, 1, progress=lambda *a: done.append(a))
    np.testing.assert_allclose(out, image, atol=1e-6)
    n = len(plan_windows(shape, config).starts)
    assert done[-1] == (n, n)


def _position_in_window(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """A prediction that depends on where in the window a voxel lies, so that blending shows."""
    ramp = np.arange(np.prod(windows.shape[2:]), dtype=np.float32).reshape(windows.shape[2:])
    return windows * 0 + ramp


@pytest.mark.parametrize("blend", ["gaussian", "constant"])
def test_blending_is_that_of_monai(blend: str) -> None:
    """With lengths that both divide alike: steps of half a window, no rest."""
    image = _image(16, 12, 8)
    out = sweep(_position_in_window, image, _config(3, [8, 8, 8], blend=blend), 1)
    slow = sliding_window_inference(
        torch.from_numpy(image)[None],
        (8, 8, 8),
        1,
        lambda x: torch.from_numpy(_position_in_window(x.numpy())),
        overlap=0.5,
        mode=blend,
    )
    np.testing.assert_allclose(out, slow[0].numpy(), rtol=1e-5)


@pytest.mark.parametrize("length", [8, 9, 12, 13, 31])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
def test_windows_cover_all_and_overlap_enough(length: int, overlap: float) -> None:
    windows = plan_windows((length, 8, 8), _config(3, [8, 8, 8], overlap=overlap))
    starts = sorted({i for i, _, _ in windows.starts})
    assert starts[0] == 0
    assert starts[-1] + 8 == length
    steps = np.diff(starts)
    assert (steps <= 8 * (1 - overlap)).all()
    assert len(steps) == 0 or steps.max() - steps.min() <= 1


def test_windows_stay_inside_a_box_unless_it_is_smaller_than_one() -> None:
    config = _config(3, [8, 8, 8])
    windows = plan_windows((40, 40, 40), config, Box((10, 0, 37), (30, 40, 40)))
    i, _, k = (sorted({start[axis] for start in windows.starts}) for axis in range(3))
    assert (i[0], i[-1] + 8) == (10, 30)
    assert k == [32]


def test_a_small_volume_is_padded_with_air() -> None:
    seen = []

    def run(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.append(windows[0, 0])
        return windows

    image = _image(5, 8, 3)
    np.testing.assert_allclose(sweep(run, image, _config(3, [8, 8, 8]), 1, inside=Box((1, 0, 0), (5, 8, 3))), image)
    np.testing.assert_array_equal(seen[0][1:6, :, 2:5], image[0])
    assert seen[0].shape == (8, 8, 8)
    assert seen[0].sum() == pytest.approx(image.sum())


def test_windows_of_air_are_left_out() -> None:
    image = _image(24, 8, 8)
    image[:, 8:16] = 0
    seen = []

    def run(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.append(windows)
        return windows * 0 + 1

    out = sweep(run, image, _config(3, [8, 8, 8], overlap=0.0), 1)
    assert len(seen) == 2
    assert (out[0, 8:16] == 0).all()
    assert (out[0, :8] == 1).all()


def test_batches_hold_as_many_windows_as_asked_for() -> None:
    sizes = []

    def run(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        sizes.append(len(windows))
        return windows

    sweep(run, _image(24, 24, 8), _config(3, [8, 8, 8], overlap=0.0, window_batch=4), 1)
    assert sizes == [4, 4, 1]


def test_neighbouring_slices_are_channels() -> None:
    image = np.arange(1.0, 5.0, dtype=np.float32).reshape(1, 1, 1, 4)
    assert neighbour_channels(image, 1)[:, 0, 0].tolist() == [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 0]]


def test_a_slice_network_sees_its_neighbours() -> None:
    def above(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        assert windows.shape[1:] == (3, 8, 8)
        return windows[:, 2:]

    image = _image(8, 8, 5)
    config = Config().changed({"network": {"spatial_dims": 2}, "data": {"patch_size": [8, 8], "neighbour_slices": 1}})
    np.testing.assert_allclose(sweep(above, image, config, 1)[..., :-1], image[..., 1:], atol=1e-6)
