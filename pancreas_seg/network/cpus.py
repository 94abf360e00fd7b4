"""How many CPUs there are for this process."""

from __future__ import annotations

import math
import os
from pathlib import Path


def available_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs that this process may run on, or the share of their time that a container was given, rounded up."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for version in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            share_us, period_us = map(int, " ".join((cgroup / name).read_text() for name in version).split())
        except (OSError, ValueError):  # no such version, or "max"
            continue
        if share_us > 0:
            return min(cpus, math.ceil(share_us / period_us))
    return cpus
