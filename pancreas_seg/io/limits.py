"""How large a CT may be: what a header claims is checked before memory is taken for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import prod
from pathlib import Path

from pancreas_seg.errors import InputError

LARGEST_VOXELS = 2**30
"""Voxels of a volume, such as 1024 x 1024 x 1024."""

LARGEST_BYTES = 2**32
"""Of a file, and of a volume as it is stored."""

LARGEST_RATIO = 1100
"""Deflate makes data at most 1032 times smaller."""


@dataclass(frozen=True)
class MemoryLimit:
    """How much memory the process may take.

    Parameters
    ----------
    gb : float
        GB (10^9 bytes).
    base_gb : float
        What is needed besides the volume.
    bytes_per_voxel : float
        What each voxel takes besides twice its size as stored (compressed, and decompressed).
    """

    gb: float
    base_gb: float
    bytes_per_voxel: float

    def needed_gb(self, n_voxels: int, bytes_per_voxel: int) -> float:
        """What a volume will take, as it is stored, when it is read and segmented."""
        own = 2 * bytes_per_voxel if bytes_per_voxel <= 2 else 2 * bytes_per_voxel + 4
        return self.base_gb + n_voxels * (own + self.bytes_per_voxel) / 1e9


_limit: ContextVar[MemoryLimit | None] = ContextVar("memory limit", default=None)


@contextmanager
def at_most(limit: MemoryLimit) -> Iterator[None]:
    """In the block, what would need more memory is refused before it is read."""
    token = _limit.set(limit)
    try:
        yield
    finally:
        _limit.reset(token)


def check_memory(n_voxels: int, bytes_per_voxel: int, where: object) -> None:
    """Raise InputError if a volume needs more memory than `at_most` allows."""
    limit = _limit.get()
    if limit is not None and (needed := limit.needed_gb(n_voxels, bytes_per_voxel)) > limit.gb:
        raise InputError(
            "input.needs_memory",
            where=where,
            found=f"{n_voxels} voxels, which need about {needed:.1f} GB to be segmented",
            expected=f"at most {limit.gb:g} GB (infer.max_memory_gb)",
            advice="Give it more memory with --set infer.max_memory_gb=..., or crop the CT.",
        )


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
    check_memory(prod(shape), bytes_per_voxel, where)
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
