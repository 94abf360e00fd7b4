"""How the benchmarks measure a command as a whole process, and how they print it.

Figures are the operating system's own for the finished process and the children it waited for: wall seconds, user and
system seconds, and the peak resident memory of the largest single process.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """What a process cost; ``cpu_s`` is user and system time together."""

    wall_s: float
    cpu_s: float
    system_s: float
    peak_gb: float


def run(command: Sequence[str | Path], extra: Mapping[str, str] | None = None, log: Path | None = None) -> Cost:
    """Run a command to its end and measure it. Its output goes to ``log``, or nowhere.

    A small process starts it: Linux counts the peak of the process that starts another as the other's own.

    Raises
    ------
    SystemExit
        If it fails.
    """
    words = [sys.executable, "-I", "-S", str(Path(__file__)), *map(str, command)]
    with open(log or os.devnull, "a") as output:  # noqa: PTH123
        done = subprocess.run(
            words, stdout=subprocess.PIPE, stderr=output, env={**os.environ, **(extra or {})}, text=True, check=False
        )
    facts = json.loads(done.stdout)
    if facts.pop("exit_code"):
        raise SystemExit(f"failed: {' '.join(map(str, command))}" + (f"; see {log}" if log else ""))
    return Cost(**facts)


def warm_up(ct: Path, weights: str | Path, log: Path | None = None) -> None:
    """Segment a small CT once, uncounted: an engine may convert the networks at their first use and keep the result."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "pancreas_seg", "segment", ct, "--out", out, "--weights", weights]
        print(f"first run with {weights}, not counted: {run(command, log=log).wall_s:.1f} s", flush=True)


def median(costs: Sequence[Cost]) -> Cost:
    """The median of each figure by itself."""
    return Cost(*(statistics.median(getattr(cost, name) for cost in costs) for name in Cost.__annotations__))


def machine(*packages: str) -> str:
    """The machine and the versions of Python and of those packages that are installed, in a line."""
    versions = [f"{name} {metadata.version(name)}" for name in packages if find_spec(name)]
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    features = [flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if flag in _cpu("flags").split()]
    return "; ".join(
        [
            f"{_cpu('model name') or platform.processor()} ({', '.join(features) or 'no AVX-512'})",
            f"{len(os.sched_getaffinity(0))} cores, {memory_gb:.0f} GB",
            f"load {os.getloadavg()[0]:.1f} at the start",
            ", ".join([f"Python {platform.python_version()}", *versions]),
        ]
    )


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; all columns but the first are right-aligned."""
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    lines.insert(1, ["---", *["---:"] * (len(header) - 1)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def goal(text: str, reached: float, met: bool) -> tuple[str, str, str]:
    """A row of a table of goals."""
    return text, f"{reached:.1f}" if abs(reached) >= 10 else f"{reached:.4f}", "met" if met else "not met"


def _cpu(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.split(":")[0].strip() == key), "")


def _measure(command: Sequence[str]) -> dict[str, float]:
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=sys.stderr, stderr=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    return {
        "exit_code": os.waitstatus_to_exitcode(status),
        "wall_s": time.perf_counter() - start,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "system_s": usage.ru_stime,
        "peak_gb": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9,
    }


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1:])))
