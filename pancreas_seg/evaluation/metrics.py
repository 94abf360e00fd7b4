"""Agreement of two masks on the same grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def dice(reference: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> float:
    """Dice coefficient 2·|R∩P| / (|R| + |P|) of two boolean arrays of the same shape (Dice 1945).

    1.0 if both are empty, since they agree; 0.0 if just one is.
    """
    if reference.shape != prediction.shape:
        raise ValueError(f"shapes {reference.shape} and {prediction.shape} differ")
    total = int(np.count_nonzero(reference)) + int(np.count_nonzero(prediction))
    return 1.0 if total == 0 else 2.0 * int(np.count_nonzero(reference & prediction)) / total
