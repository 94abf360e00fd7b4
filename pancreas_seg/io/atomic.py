"""Files appear under their final name only when they are complete."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = ".unfinished-"


def remove_unfinished(folder: Path, older_than_s: float = 0.0) -> None:
    """Delete what a killed process left half-written in a folder that no other process is writing to.

    Where others may be writing, ``older_than_s`` spares what they have begun since.
    """
    for path in folder.glob(f"{_PREFIX}*"):
        with suppress(FileNotFoundError):
            if not older_than_s or time.time() - path.stat().st_mtime > older_than_s:
                path.unlink()


def check_writable(folder: Path) -> None:
    """Make a folder if it is missing, and a file in it for a moment.

    Raises
    ------
    OSError
        If that isn't possible, which is better known before hours of work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=_PREFIX, dir=folder)
    os.close(handle)
    Path(name).unlink()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name in the same folder; move the file to ``path`` when the block ends without an error.

    The temporary name keeps the suffixes, since writers choose the format by them. After an error nothing is left
    behind and a file that was at ``path`` before is still there.

    Examples
    --------
    >>> with replacing(Path("mask.nii.gz")) as temporary:
    ...     temporary.write_bytes(b"...")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=_PREFIX, suffix=f"-{path.name}", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
