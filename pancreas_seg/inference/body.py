"""Where in the field of view the patient is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pancreas_seg.geometry import Box

_STEP_MM = 6.0
_MARGIN_MM = 12.0


def body_box(image: NDArray[np.float32], spacing_mm: Sequence[float]) -> Box | None:
    """Box around the body in a preprocessed CT, with a margin.

    The body is the largest piece of what is above the HU window's lower end once thin things (the table, tubes, noise)
    are gone, at a resolution of about 6 mm.

    Parameters
    ----------
    image : (I, J, K) array
        In 0..1; 0 is the lower end of the HU window and below.
    spacing_mm : sequence of float

    Returns
    -------
    Box or None
        None if nothing is left.
    """
    steps = [max(1, round(_STEP_MM / mm)) for mm in spacing_mm]
    inside = ndimage.binary_opening(image[:: steps[0], :: steps[1], :: steps[2]] > 0)
    pieces, _ = ndimage.label(inside)
    box = Box.around(pieces == 1 + int(np.bincount(pieces.ravel(), minlength=2)[1:].argmax()))
    if box is None:
        return None
    margin = [int(np.ceil(_MARGIN_MM / mm)) for mm in spacing_mm]
    start = [max(0, a * s - m) for a, s, m in zip(box.start, steps, margin, strict=True)]
    stop = [min(n, (b - 1) * s + 1 + m) for b, s, m, n in zip(box.stop, steps, margin, image.shape, strict=True)]
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
