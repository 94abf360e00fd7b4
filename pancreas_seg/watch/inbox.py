"""What lies in the watched folder, and which of it is complete."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pancreas_seg.io import IMAGE_SUFFIXES
from pancreas_seg.watch.folders import RESERVED

SUFFIXES = tuple(dict.fromkeys((*IMAGE_SUFFIXES, ".zip")))
"""Endings of files that are taken. Folders are taken whatever they hold."""

UNFINISHED = (".part", ".partial", ".filepart", ".tmp", ".temp", ".crdownload", ".download", "~")
"""Endings that programs give to what they are still copying."""

MARKER = ".done"

Signature = tuple[tuple[str, int, int], ...]
"""Name, size in bytes and time of change in ns of each file."""


@dataclass(frozen=True)
class Arrival:
    """Something to segment, and what it looked like when it was found complete."""

    path: Path
    signature: Signature


@dataclass(frozen=True)
class Look:
    """What a look into the folder found: complete arrivals (oldest first), names still settling, files left alone."""

    ready: tuple[Arrival, ...]
    settling: tuple[str, ...]
    ignored: int


class Inbox:
    """The watched folder.

    Parameters
    ----------
    root : Path
    settle_s : float
        For how long nothing of an arrival may have changed; its own clock counts, not the files'.
    clock : callable
        Seconds that never go back.
    """

    def __init__(self, root: Path, settle_s: float, clock: Callable[[], float]) -> None:
        self._root = root
        self._settle_s = settle_s
        self._clock = clock
        self._seen: dict[str, tuple[Signature, float]] = {}
        self._lock = threading.Lock()

    def look(self) -> Look:
        """Look at everything there. Any thread may.

        Raises
        ------
        OSError
            If the folder cannot be listed.
        """
        with self._lock:
            return self._look()

    def _look(self) -> Look:
        ready: list[tuple[int, str, Arrival]] = []
        settling: list[str] = []
        ignored = 0
        seen: dict[str, tuple[Signature, float]] = {}
        with os.scandir(self._root) as entries:
            names = {entry.name: entry for entry in entries}
        for name, entry in names.items():
            if name in RESERVED or is_unfinished(name) or name.endswith(MARKER):
                continue
            if not is_taken(entry):
                ignored += 1
                continue
            signature = signature_of(Path(entry.path))
            if not signature:  # gone, or a folder without files
                continue
            before, since = self._seen.get(name, (None, 0.0))
            if before != signature:
                since = self._clock()
            seen[name] = signature, since
            marked = name + MARKER in names or (Path(entry.path) / MARKER).is_file()
            if marked or self._clock() - since >= self._settle_s:
                newest = max(changed for _, _, changed in signature)
                ready.append((newest, name, Arrival(Path(entry.path), signature)))
            else:
                settling.append(name)
        self._seen = seen
        ready.sort(key=lambda item: item[:2])
        return Look(tuple(arrival for _, _, arrival in ready), tuple(sorted(settling)), ignored)


def is_unfinished(name: str) -> bool:
    """Whether a name is hidden, or that of a file that is still being copied."""
    return name.startswith(".") or name.lower().endswith(UNFINISHED)


def is_taken(entry: os.DirEntry[str]) -> bool:
    """Whether it is of a kind that is segmented. Links aren't: they lead to what isn't ours to move."""
    if entry.is_symlink():
        return False
    return entry.is_dir() or (entry.is_file() and entry.name.lower().endswith(SUFFIXES))


def signature_of(path: Path) -> Signature:
    """Of a file or all files in a folder, those with unfinished names too; empty if there is none."""
    try:
        if not path.is_dir():
            status = path.lstat()
            return (("", status.st_size, status.st_mtime_ns),)
        found = []
        for folder, _, files in os.walk(path):
            for file in files:
                if file != MARKER:
                    full = Path(folder, file)
                    status = full.lstat()
                    found.append((str(full.relative_to(path)), status.st_size, status.st_mtime_ns))
        return tuple(sorted(found))
    except FileNotFoundError:
        return ()


def remove_marker(path: Path) -> None:
    """Delete the file that says that an arrival is complete, so that it doesn't speak for the next of its name."""
    path.with_name(path.name + MARKER).unlink(missing_ok=True)
