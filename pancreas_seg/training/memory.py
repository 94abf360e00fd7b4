"""Memory that a training step frees is kept for the next step."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
"""Parameters of glibc's mallopt(3)."""


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory instead of giving it back to the system; whether it does.

    Each step frees and takes the same few gigabytes. Mapped anew, they come back as pages that the kernel has to clear
    and map one by one, which took up to a third of a step. It holds for the whole process and can't be undone; peak
    memory stays the same. Only glibc can do so; elsewhere nothing changes.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(key, value) for key, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, 1 << 28)))
