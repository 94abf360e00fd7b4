from __future__ import annotations

import numpy as np
import pytest

from pancreas_seg.geometry import Box
from pancreas_seg.inference.body import body_box

SPACING = (3.0, 3.0, 5.0)


def _body(shape=(100, 90, 30)) -> np.ndarray:
    """An ellipse of tissue in every slice, a thin table below it, and noise in single voxels."""
    x, y, _ = np.meshgrid(*map(np.arange, shape), indexing="ij")
    image = (((x - 50) / 24) ** 2 + ((y - 50) / 18) ** 2 < 1).astype(np.float32) * 0.5
    image[20:80, 12, :] = 0.6
    image[np.random.default_rng(0).random(shape) > 0.999] = 0.3
    return image


def test_the_box_holds_the_body_and_little_else() -> None:
    box = body_box(_body(), SPACING)
    assert box is not None
    for axis, (low, high) in enumerate([(26, 74), (32, 68)]):
        assert low - 8 <= box.start[axis] <= low - 2
        assert high + 2 <= box.stop[axis] <= high + 8
    assert (box.start[2], box.stop[2]) == (0, 30)


@pytest.mark.parametrize("image", [np.zeros((30, 30, 30), np.float32), np.eye(30, dtype=np.float32)[..., None]])
def test_nothing_is_no_body(image: np.ndarray) -> None:
    assert body_box(image, (1.0, 1.0, 1.0)) is None


def test_a_body_that_fills_the_image_is_the_image() -> None:
    assert body_box(np.ones((40, 30, 20), np.float32), (2.0, 2.0, 2.0)) == Box((0, 0, 0), (40, 30, 20))
