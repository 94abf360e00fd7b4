"""Which process is it, and is it still there?"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process on some machine.

    Parameters
    ----------
    host : str
        The machine's name, for people.
    place : str
        What tells one set of process numbers from another: a boot of a machine and, on Linux, its namespace (two
        containers both have a process 1).
    pid : int
    started : str
        When it started, in the system's own count, since numbers are used again; "" where that isn't known.
    """

    host: str
    place: str
    pid: int
    started: str

    @classmethod
    def here(cls) -> Process:
        """The process that asks."""
        pid = os.getpid()
        return cls(platform.node(), _place(), pid, _state_and_start(pid)[1])

    def surely_gone(self) -> bool:
        """Whether it has ended; False where one cannot tell, as for another machine's."""
        if self.place != _place():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:  # it is another user's
            pass
        state, started = _state_and_start(self.pid)
        return state in ("Z", "X") or (started != self.started and "" not in (started, self.started))

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def _state_and_start(pid: int) -> tuple[str, str]:
    """Fields 3 and 22 of proc_pid_stat(5); the second field may hold anything, up to the last parenthesis."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return fields[0], fields[19]
    except (OSError, IndexError):
        return "", ""
