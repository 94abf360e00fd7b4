"""Signs of life, from a thread of their own: leases, a file for each watcher, the status. And who listens to them."""

from __future__ import annotations

import json
import logging
import threading
import uuid
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from pancreas_seg.io import replacing
from pancreas_seg.watch.claim import Claim, LostError, now
from pancreas_seg.watch.folders import Folders, read_json
from pancreas_seg.watch.process import Process

SILENT_S = 120.0
"""A watcher whose file is older has stopped or hangs."""

STALLED_S = 3600.0
"""A watcher that was at the same step for so long hangs."""

_FORGOTTEN_S = 86400.0

log = logging.getLogger(__name__)


class Reports(Protocol):
    """What is written at each beat."""

    def write(self, last: bool = False) -> None: ...


class Pulse:
    """A thread that beats every ``beat_s`` and when a case begins or ends, and a last time at the end."""

    def __init__(self, folders: Folders, me: Process, reports: Reports, beat_s: float) -> None:
        self.problem = ""
        self._folders = folders
        self._me = me
        self._reports = reports
        self._beat_s = beat_s
        self._path = folders.watchers / f"{uuid.uuid4().hex[:12]}.json"
        self._since = self._active = now()
        self._claim: Claim | None = None
        self._windows: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def __enter__(self) -> None:
        _forget_old(self._folders)
        self._beat()
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over = True
        self._wake.set()
        self._thread.join()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
            self._reports.write(last=True)

    def active(self) -> None:
        """The work goes on."""
        self._active = now()

    def begin(self, claim: Claim) -> None:
        """Keep this case's lease alive from now on."""
        with self._lock:
            self._claim, self._windows = claim, None
        self._wake.set()

    def end(self) -> None:
        """Touch the case no more."""
        with self._lock:
            self._claim = self._windows = None
        self._wake.set()

    def progress(self, done: int, total: int) -> None:
        """Windows done and windows in all, of the pass that is running."""
        self._windows = done, total
        self._active = now()

    def _run(self) -> None:
        while not self._over:
            self._wake.wait(self._beat_s)
            self._wake.clear()
            if not self._over:
                self._beat()

    def _beat(self) -> None:
        with self._lock:
            claim = self._claim
            if claim is not None:
                try:
                    claim.change()
                except LostError:
                    self._claim = None
                except OSError as error:
                    log.warning("%s: its lease cannot be renewed: %s", claim.record.case, error.strerror)
        try:
            with replacing(self._path) as temporary:
                temporary.write_text(json.dumps(self._facts(claim), indent=2) + "\n", encoding="utf-8")
            self._reports.write()
        except OSError as error:
            log.warning("the status cannot be written: %s (%s)", error.strerror, error.filename)
        except Exception:
            log.exception("the status cannot be written")

    def _facts(self, claim: Claim | None) -> dict[str, Any]:
        return {
            "process": asdict(self._me),
            "since": self._since,
            "seen": now(),
            "active": self._active,
            "case": claim.folder.name if claim else None,
            "windows": self._windows,
            "problem": self.problem,
        }


def watchers(folders: Folders) -> list[dict[str, Any]]:
    """What each watcher says of itself, those that are surely gone or long silent left out."""
    found = []
    for path in sorted(folders.watchers.glob("*.json")):
        facts: dict[str, Any] = read_json(path)
        try:
            gone = Process(**facts["process"]).surely_gone()
            if not gone and _age_s(facts["seen"]) < SILENT_S:
                found.append(facts)
        except (KeyError, TypeError, ValueError):
            continue
    return sorted(found, key=lambda facts: str(facts.get("since")))


def health(out: Path) -> tuple[bool, str]:
    """Whether a watcher of this machine (or container) is at work on an output folder, and a sentence on it."""
    here = Process.here().place
    mine = [facts for facts in watchers(Folders(Path(), out)) if facts["process"]["place"] == here]
    for facts in mine:
        if _age_s(facts["active"]) < STALLED_S:
            return True, f"a watcher is at work, last seen {facts['seen']}"
    if mine:
        return False, f"a watcher hangs: no progress since {mine[0]['active']}"
    return False, "no watcher is at work here"


def _age_s(time: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()


def _forget_old(folders: Folders) -> None:
    """Delete the files of watchers that are gone."""
    for path in folders.watchers.iterdir():
        facts: dict[str, Any] = read_json(path)
        with suppress(OSError):
            old = datetime.now(UTC).timestamp() - path.stat().st_mtime > _FORGOTTEN_S
            try:
                gone = Process(**facts["process"]).surely_gone()
            except (KeyError, TypeError):
                gone = False
            if old or gone:
                path.unlink(missing_ok=True)
