"""How sure the network is of a mask: its probability inside, and whether a small change of the input moves it."""

from __future__ import annotations

from functools import partial

import numpy as np

from pancreas_seg.geometry import Box
from pancreas_seg.inference.quality import dice
from pancreas_seg.inference.stage import Pass, Stage
from pancreas_seg.network.decision import decided
from pancreas_seg.network.windows import sweep


def confidence(stage: Stage, fine: Pass, shift_hu: float) -> tuple[float | None, float | None]:
    """Mean probability inside the first label, and its Dice with the mask of a slightly changed input.

    Both on the model grid, before cleaning. The change: ``shift_hu`` more, and the windows' grid moved by a voxel along
    each axis; 0 leaves it out.

    Returns
    -------
    (probability, stability)
        None where the network's own mask is empty on the model grid.
    """
    prediction = fine.prediction
    threshold = stage.config.infer.threshold
    mask = decided(prediction.probabilities, threshold) == 1
    box = Box.around(mask)
    if box is None:
        return None, None
    probability = float(prediction.probabilities[0][mask].mean())
    if shift_hu == 0:
        return probability, None
    config = stage.config
    low, high = config.data.window_hu
    image = np.roll(prediction.image, (1, 1, 1), axis=(1, 2, 3))
    image = np.where(image > 0, (image + np.float32(shift_hu / (high - low))).clip(0, 1), image)
    classes = [1 + config.data.classes.index(name) for name in config.infer.output]
    run = partial(stage.engine.probabilities, classes=classes)
    around = box.grown((2, 2, 2), mask.shape)
    changed = sweep(run, image, config, len(classes), inside=around)
    other = decided(np.roll(changed, (-1, -1, -1), axis=(1, 2, 3)), threshold) == 1
    return probability, dice(mask, other)
