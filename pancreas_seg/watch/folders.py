"""Where things lie: the folders of a watched folder, and the names of cases."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pancreas_seg.errors import ConfigError
from pancreas_seg.io import case_name

RECORD = "case.json"
REASON = "reason.txt"
ENDS = ("done", "refused", "failed")
"""Folders that a case can end in."""

RESERVED = frozenset(("running", *ENDS, RECORD, REASON))
_OUTPUTS = frozenset(("status.json", "status.html", "summary.csv"))
_LONGEST = 60


@dataclass(frozen=True)
class Folders:
    """The two folders that a user names, and those in them that are the program's."""

    inputs: Path
    out: Path

    @property
    def running(self) -> Path:
        return self.inputs / "running"

    @property
    def work(self) -> Path:
        return self.out / ".watch" / "work"

    @property
    def watchers(self) -> Path:
        return self.out / ".watch" / "watchers"

    def make(self) -> None:
        """Make what is missing.

        Raises
        ------
        ConfigError
            If there is no input folder, it cannot be written to, or one of both lies in the other.
        """
        where = f"watch {self.inputs} {self.out}"
        if not self.inputs.is_dir():
            raise ConfigError(
                "config.no_folder",
                where=where,
                found="no such folder to watch",
                expected="a folder that CTs are dropped into",
                advice="Make the folder, or check its name.",
            )
        a, b = self.inputs.resolve(), self.out.resolve()
        if a == b or a in b.parents or b in a.parents:
            raise ConfigError(
                "config.nested_folders",
                where=where,
                found="one folder in the other",
                expected="two folders side by side",
                advice="Results would be taken for cases; name another output folder.",
            )
        for folder in (self.running, self.work, self.watchers, *(self.inputs / end for end in ENDS)):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.inputs, self.out):
            if not os.access(folder, os.W_OK | os.X_OK):
                raise ConfigError(
                    "config.not_writable",
                    where=folder,
                    found="a folder that cannot be written to",
                    expected="one that can: inputs are moved when they are taken",
                    advice="Change its permissions, or the user that watches.",
                )

    def free_names(self, case: str) -> Iterator[str]:
        """The case's name, then with numbers; those that are taken are left out, so that no drop hides another."""
        n = 1
        while True:
            name = case if n == 1 else f"{case}-{n}"
            n += 1
            taken = (self.out / name, *(self.inputs / end / name for end in ENDS))
            if not any(os.path.lexists(path) for path in taken):
                yield name


def case_of(name: str) -> str:
    """A case's name for that of its file or folder: without suffix, printable, not too long for a folder."""
    case = case_name(Path(name))
    if case == name and name.lower().endswith(".zip"):
        case = name[: -len(".zip")]
    case = "".join(c if c.isprintable() and c not in '\\/:*?"<>|' else "_" for c in case)[:_LONGEST].rstrip(". ")
    return f"{case}_" if case in _OUTPUTS or not case else case


class Ended:
    """The records of cases that ended; each is read once."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self._read: dict[tuple[str, str], dict[str, Any]] = {}

    def look(self) -> dict[str, list[dict[str, Any]]]:
        """Records by the folder that they lie in, in order of the time that the case ended."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for end in ENDS:
            with os.scandir(self._folders.inputs / end) as entries:
                names = [entry.name for entry in entries if not entry.name.startswith(".")]
            for name in names:
                record = self._read.get((end, name)) or read_json(self._folders.inputs / end / name / RECORD)
                if record:
                    found[end, name] = record
        self._read = found
        by_end: dict[str, list[dict[str, Any]]] = {end: [] for end in ENDS}
        for (end, _), record in sorted(found.items(), key=lambda item: str(item[1].get("ended"))):
            by_end[end].append(record)
        return by_end


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty if there is none or it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
