"""How large a CT may be: what a header claims is checked before memory is taken for it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path

from pancreas_seg.errors import InputError

LARGEST_VOXELS = 2**30
"""Voxels of a volume, such as 1024 x 1024 x 1024."""

LARGEST_BYTES = 2**32
"""Of a file, and of a volume as it is stored."""

LARGEST_RATIO = 1100
"""Deflate makes data at most 1032 times smaller."""


def check_volume(shape: Sequence[int], bytes_per_voxel: int, where: Path) -> int:
    """Bytes that a volume takes as it is stored.

    Raises
    ------
    InputError
        If it is larger than any CT.
    """
    size = prod(shape) * bytes_per_voxel
    if prod(shape) > LARGEST_VOXELS or size > LARGEST_BYTES:
        raise InputError(
            "input.too_large",
            where=where,
            found=f"a header that claims {' x '.join(str(n) for n in shape)} voxels of {bytes_per_voxel} bytes",
            expected=f"at most {LARGEST_VOXELS} voxels in {LARGEST_BYTES} bytes",
            advice="No CT is so large; check the header, or crop the image.",
        )
    return size


def check_file(size: int, where: Path) -> None:
    """Raise InputError unless a file of ``size`` bytes can be a CT."""
    if size == 0:
        raise InputError(
            "input.empty_file",
            where=where,
            found="a file of 0 bytes",
            expected="an image",
            advice="Copy or export the file again.",
        )
    if size > LARGEST_BYTES + 2**20:
        raise InputError(
            "input.too_large",
            where=where,
            found=f"a file of {size} bytes",
            expected=f"at most {LARGEST_BYTES} bytes",
            advice="No CT is so large; check the file, or crop the image.",
        )
