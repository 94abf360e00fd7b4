"""Who has which case. Each change of hands is one rename, which only one process can win."""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pancreas_seg.watch.folders import REASON, RECORD, Folders, case_of, read_json
from pancreas_seg.watch.inbox import Arrival, remove_marker, signature_of
from pancreas_seg.watch.process import Process

RECORD_SCHEMA = "pancreas-seg-watch-case-1"


class LostError(Exception):
    """Somebody else has taken the case over: what was made of it here counts for nothing."""


@dataclass(frozen=True)
class Record:
    """What case.json says of a case.

    Parameters
    ----------
    case, name : str
        The case's name, and that of its file or folder.
    watcher : Process or None
        Who segments it; None: nobody, it was given back.
    lease_s : float
        When the watcher hasn't changed this record for so long, the case may be taken over.
    tries : int
        How often it was begun, given-back times left out.
    failures : int
        How often it failed by a bug.
    taken, seen, ended : str
        UTC: since when it is being segmented, last sign of life, end.
    renewals : int
        How often the record was changed: no two of its contents are alike, whatever the clock says.
    outcome : dict or None
        The line of summary.csv.
    reasons : tuple of dict
        Code and text of each reason, as in result.json.
    output : str
        Its folder in the output; named before the result is moved there.
    work : str
        The folder in OUT/.watch/work in which the result is made.
    """

    case: str
    name: str
    watcher: Process | None = None
    lease_s: float = 0.0
    tries: int = 0
    failures: int = 0
    taken: str = ""
    seen: str = ""
    ended: str = ""
    renewals: int = 0
    outcome: dict[str, str] | None = None
    reasons: tuple[dict[str, str], ...] = ()
    output: str = ""
    work: str = ""

    @classmethod
    def read(cls, folder: Path) -> Record | None:
        """The record in a case's folder; None if there is none that can be read."""
        facts: dict[str, Any] = read_json(folder / RECORD)
        facts.pop("schema", None)
        try:
            if facts["watcher"] is not None:
                facts["watcher"] = Process(**facts["watcher"])
            facts["reasons"] = tuple(facts["reasons"])
            return cls(**facts)
        except (KeyError, TypeError):
            return None

    def write(self, folder: Path) -> None:
        """Replace the record in a folder that must be there; the folder is never made anew.

        Raises
        ------
        LostError
            If the folder is no longer there.
        """
        temporary = folder / f".{uuid.uuid4().hex}"
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(json.dumps({"schema": RECORD_SCHEMA, **asdict(self)}, indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(folder / RECORD)
        except FileNotFoundError as error:
            raise LostError(folder.name) from error


class Claim:
    """A case that this process has, until a call raises LostError."""

    def __init__(self, folders: Folders, folder: Path, record: Record) -> None:
        self.folder = folder
        self.record = record
        self.work = folders.work / record.work
        self._lock = threading.Lock()

    @property
    def input(self) -> Path:
        return self.folder / self.record.name

    def change(self, **changes: Any) -> None:
        """Change the record, which renews the lease, too.

        Raises
        ------
        LostError
        """
        with self._lock:
            self.record = replace(self.record, **changes, seen=now(), renewals=self.record.renewals + 1)
            self.record.write(self.folder)

    def give_back(self, tries: int) -> None:
        """Let anybody take it at once. What is made of it so far stays for them.

        Raises
        ------
        LostError
        """
        self.change(watcher=None, tries=tries)

    def write_text(self, name: str, text: str) -> None:
        """Write a file beside the input.

        Raises
        ------
        LostError
        """
        try:
            (self.folder / name).write_text(text, encoding="utf-8", errors="replace")
        except FileNotFoundError as error:
            raise LostError(self.folder.name) from error

    def move(self, source: Path, target: Path) -> bool:
        """Move a folder that only the case's owner can move; False if there is something at its target.

        Raises
        ------
        LostError
            If the source is gone.
        """
        target.parent.mkdir(exist_ok=True)
        try:
            source.rename(target)
        except FileNotFoundError as error:
            raise LostError(self.folder.name) from error
        except OSError:
            if os.path.lexists(target):
                return False
            raise
        return True


def take(folders: Folders, arrival: Arrival, me: Process, lease_s: float) -> Claim | None:
    """Take a complete arrival; None if somebody else was first, or it has changed meanwhile.

    Raises
    ------
    OSError
        If it cannot be moved.
    """
    case = case_of(arrival.path.name)
    folder = _new_folder(folders, case)
    folder.mkdir()
    record = Record(case, arrival.path.name, me, lease_s, tries=1, taken=now(), seen=now(), work=_token(folder))
    claim = Claim(folders, folder, record)
    try:
        record.write(folder)
        if signature_of(arrival.path) == arrival.signature:
            remove_marker(arrival.path)
            arrival.path.rename(claim.input)
    except FileNotFoundError:
        pass
    except LostError:
        return None
    except OSError:
        _remove_without_input(folder)
        raise
    if not os.path.lexists(claim.input):  # asked again, since network file systems may deny what they did
        _remove_without_input(folder)
        return None
    return claim


@dataclass(frozen=True)
class Held:
    """A case's folder in running/, as it stands there now."""

    folder: Path
    record: Record | None
    content: bytes


def held(folders: Folders) -> list[Held]:
    """All cases in running/, those first that were begun least often, so that a bad one doesn't hold up the others."""
    found = []
    with os.scandir(folders.running) as entries:
        paths = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    for path in paths:
        try:
            content = (path / RECORD).read_bytes()
        except OSError:
            content = b""
        found.append(Held(path, Record.read(path), content))
    return sorted(found, key=lambda item: (item.record.tries if item.record else 0, item.folder.name))


class Leases:
    """Tells which cases may be taken over.

    A lease runs on the clock of the one who looks: what counts is for how long the record hasn't changed before his
    eyes, so machines' clocks needn't agree.
    """

    def __init__(self, lease_s: float, clock: Callable[[], float]) -> None:
        self._lease_s = lease_s
        self._clock = clock
        self._seen: dict[Path, tuple[bytes, float]] = {}

    def over(self, cases: list[Held]) -> list[Held]:
        """Those of the cases whose watcher gave them back, is gone or has been silent for its lease."""
        seen = {}
        out = []
        for case in cases:
            content, since = self._seen.get(case.folder, (None, 0.0))
            if content != case.content:
                since = self._clock()
            seen[case.folder] = case.content, since
            lease_s = case.record.lease_s if case.record else self._lease_s
            watcher = case.record.watcher if case.record else None
            free = case.record is not None and (watcher is None or watcher.surely_gone())
            if free or self._clock() - since >= lease_s:
                out.append(case)
        self._seen = seen
        return out


def take_over(folders: Folders, case: Held, me: Process, lease_s: float) -> Claim | None:
    """Take a case whose lease is over; None if somebody else was first, or its input was never moved in."""
    folder = _new_folder(folders, case.folder.name.rpartition(".")[0])
    try:
        case.folder.rename(folder)
        for left in folder.glob(".*"):
            left.unlink(missing_ok=True)
        record = Record.read(folder)
        inputs = [path.name for path in folder.iterdir() if path.name not in (RECORD, REASON)]
        if record is None and inputs:
            record = Record(case_of(inputs[0]), inputs[0], taken=now())
        if record is None or not (inputs or record.outcome):
            _remove_without_input(folder)
            return None
        for former in (record.work, _token(case.folder)):
            if former:
                with suppress(FileNotFoundError):
                    (folders.work / former).rename(folders.work / _token(folder))
        claim = Claim(folders, folder, replace(record, work=_token(folder)))
        claim.change(watcher=me, lease_s=lease_s, tries=record.tries + 1)
    except (FileNotFoundError, LostError):
        return None
    return claim


def now() -> str:
    """The time in UTC, for people and for sorting."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _new_folder(folders: Folders, stem: str) -> Path:
    return folders.running / f"{stem}.{uuid.uuid4().hex[:12]}"


def _token(folder: Path) -> str:
    return folder.name.rpartition(".")[2]


def _remove_without_input(folder: Path) -> None:
    """Remove a case's folder; if an input is in it, nothing happens to that."""
    for path in (folder / RECORD, *folder.glob(".*")):
        path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
