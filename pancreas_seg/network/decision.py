"""From probabilities to classes; training validates by the rule that segmenting uses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def decided(
    probabilities: NDArray[np.float32] | Sequence[NDArray[np.float32]], threshold: float = 0.5
) -> NDArray[np.uint8]:
    """The class of each voxel from the probabilities of K classes, (K, I, J, K'): k + 1, or 0 for background.

    What no channel claims counts as background: p_0 = 1 - Σ p_k. The most probable class wins where
    p_k > p_0·t / (1 - t): with one class where p > t, with t = 0.5 where it is more probable than the background.
    """
    rest = (1.0 - np.sum(probabilities, axis=0)) * (threshold / (1.0 - threshold))
    return np.stack([rest, *probabilities]).argmax(axis=0).astype(np.uint8)


def decided_among_all(
    probabilities: NDArray[np.float32], outputs: Sequence[int], threshold: float = 0.5
) -> NDArray[np.intp]:
    """Classes (*S) of the probabilities (C, *S) of all classes, the background first.

    Where an output class wins by `decided`, it is that one; elsewhere the most probable of the others.
    """
    chosen = list(outputs)
    which = decided(probabilities[chosen], threshold)
    others = probabilities.copy()
    others[chosen] = -1
    return np.where(which > 0, np.array([0, *chosen])[which], others.argmax(axis=0))
