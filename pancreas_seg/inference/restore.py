"""From probabilities on the model grid to a mask on the CT's own grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.geometry import Box, Geometry
from pancreas_seg.network.decision import decided
from pancreas_seg.resampling import resample


def restore_mask(
    probabilities: NDArray[np.float32], model: Geometry, target: Geometry, threshold: float = 0.5
) -> tuple[NDArray[np.uint8], Box | None]:
    """The class of each target voxel, see `decided`.

    The probabilities are interpolated linearly, inside
    the box that foreground can lie in and nowhere else; interpolation can't make a class win where p_0 wins at all
    eight neighbours.

    Parameters
    ----------
    probabilities : (K, I, J, K') float32 array
        Of the output classes, on ``model``.
    model, target : Geometry
    threshold : float

    Returns
    -------
    mask : uint8 array of the target's shape
        0 for background, k + 1 for channel k.
    box : Box or None
        Around the mask, on the target grid; None if the mask is empty.
    """
    mask = np.zeros(target.shape, dtype=np.uint8)
    core = Box.around(decided(probabilities, threshold) > 0)
    if core is None:
        return mask, None
    source_box = core.grown((2, 2, 2), model.shape)
    target_box = covering(model, core.grown((1, 1, 1), model.shape), target)
    if min(target_box.shape) < 1:
        return mask, None
    source, crop = model.crop(source_box), target.crop(target_box)
    channels = [resample(channel[source_box.slices], source, crop, "linear", fill=None) for channel in probabilities]
    part = decided(channels, threshold)
    mask[target_box.slices] = part
    inner = Box.around(part > 0)
    if inner is None:
        return mask, None
    return mask, inner.moved(target_box.start)


def restore_probability(probability: NDArray[np.float32], model: Geometry, target: Geometry) -> NDArray[np.float32]:
    """One channel, (I, J, K) on the model grid, interpolated onto the whole target grid."""
    return np.asarray(resample(probability, model, target, "linear", fill=None), dtype=np.float32)


def covering(source: Geometry, box: Box, target: Geometry) -> Box:
    """Target voxels whose centres lie in a box of source voxels (its outer faces included)."""
    corners = [[(box.start[a] - 0.5, box.stop[a] - 0.5)[b] for a, b in enumerate(bits)] for bits in np.ndindex(2, 2, 2)]
    index = target.index(source.world(corners))
    start = np.clip(np.floor(index.min(axis=0)), 0, target.shape).astype(int)
    stop = np.clip(np.ceil(index.max(axis=0)) + 1, 0, target.shape).astype(int)
    return Box((int(start[0]), int(start[1]), int(start[2])), (int(stop[0]), int(stop[1]), int(stop[2])))
