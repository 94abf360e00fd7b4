"""status.json, status.html and summary.csv: what the folders say, for programs and for people."""

from __future__ import annotations

import csv
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from pancreas_seg._version import __version__
from pancreas_seg.inference.segmentation import NOT_A_DEVICE
from pancreas_seg.io import remove_unfinished, replacing
from pancreas_seg.watch.claim import Held, held, now
from pancreas_seg.watch.folders import Ended, Folders
from pancreas_seg.watch.inbox import Inbox
from pancreas_seg.watch.page import page
from pancreas_seg.watch.pulse import watchers

STATUS_SCHEMA = "pancreas-seg-watch-1"

_LAST = 50
_NAMED = 50
_OLDEST_S = 30.0
_COLUMNS = ("case", "status", "reasons", "volume_ml", "took_s")


class Status:
    """Writes the status of a watched folder when it has changed, and now and then.

    Several watchers may write it: each writes the same, from what lies in the folders.
    """

    def __init__(self, folders: Folders, inbox: Inbox, interval_s: float) -> None:
        self._folders = folders
        self._inbox = inbox
        self._refresh_s = max(2, round(interval_s))
        self._ended = Ended(folders)
        self._facts: dict[str, Any] = {}
        self._rows: list[list[str]] | None = None
        self._written = -_OLDEST_S
        remove_unfinished(folders.out, older_than_s=600.0)

    def write(self, last: bool = False) -> None:
        """Look, and write what has changed.

        Parameters
        ----------
        last : bool
            Whether to write in any case, because nobody will soon.

        Raises
        ------
        OSError
        """
        by_end = self._ended.look()
        facts = self._look(by_end)
        if last or facts != self._facts or time.monotonic() - self._written >= _OLDEST_S:
            self._write_text("status.json", json.dumps({**facts, "written": now()}, indent=2) + "\n")
            self._write_text("status.html", page({**facts, "written": now()}, self._refresh_s))
            self._facts, self._written = facts, time.monotonic()
        everything = sorted((r for records in by_end.values() for r in records), key=lambda r: str(r.get("ended")))
        rows = [_row(record) for record in everything]
        if rows != self._rows:
            with (
                replacing(self._folders.out / "summary.csv") as temporary,
                temporary.open("w", newline="", encoding="utf-8", errors="replace") as file,
            ):
                csv.writer(file).writerows([_COLUMNS, *rows])
            self._rows = rows

    def _write_text(self, name: str, text: str) -> None:
        with replacing(self._folders.out / name) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="replace")

    def _look(self, by_end: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
        look, alive = self._inbox.look(), watchers(self._folders)
        cases = held(self._folders)
        running = [case for case in cases if case.record and case.record.watcher]
        given_back = [case.record.name for case in cases if case.record and not case.record.watcher]
        waiting = [*given_back, *(arrival.path.name for arrival in look.ready)]
        everything = sorted((r for records in by_end.values() for r in records), key=lambda r: str(r.get("ended")))
        hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
        statuses = [_outcome(record)["status"] for record in by_end["done"]]
        return {
            "schema": STATUS_SCHEMA,
            "note": NOT_A_DEVICE,
            "version": __version__,
            "counts": {
                "settling": len(look.settling),
                "waiting": len(waiting),
                "running": len(running),
                "ok": statuses.count("ok"),
                "review": statuses.count("review"),
                "refused": len(by_end["refused"]),
                "failed": len(by_end["failed"]),
                "ignored": look.ignored,
            },
            "ended_last_hour": sum(str(record.get("ended")) > hour_ago for record in everything),
            "settling": list(look.settling[:_NAMED]),
            "waiting": waiting[:_NAMED],
            "running": [_running(case, alive) for case in running],
            "last": [_ended(record) for record in reversed(everything[-_LAST:])],
            "watchers": [
                {
                    "name": f"{facts['process']['host']}:{facts['process']['pid']}",
                    "since": facts["since"],
                    "busy": facts.get("case") is not None,
                    "problem": facts.get("problem", ""),
                }
                for facts in alive
            ],
        }


def _outcome(record: dict[str, Any]) -> dict[str, str]:
    return dict.fromkeys(_COLUMNS, "") | (record.get("outcome") or {})


def _row(record: dict[str, Any]) -> list[str]:
    outcome = _outcome(record) | {"case": str(record.get("output") or record.get("case"))}
    return [str(outcome[column]) for column in _COLUMNS]


def _ended(record: dict[str, Any]) -> dict[str, Any]:
    """A case that ended. ``output`` is its folder, "" for one that failed."""
    outcome = _outcome(record)
    return {
        "case": str(record.get("output") or record.get("case")),
        "output": str(record.get("output") or ""),
        "status": outcome["status"],
        "reasons": list(record.get("reasons") or ()),
        "volume_ml": _number(outcome["volume_ml"]),
        "took_s": _number(outcome["took_s"]),
        "ended": str(record.get("ended")),
    }


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _running(case: Held, alive: list[dict[str, Any]]) -> dict[str, Any]:
    record = case.record
    beat: dict[str, Any] = next((facts for facts in alive if facts.get("case") == case.folder.name), {})
    return {
        "case": record.case if record else "",
        "watcher": str(record.watcher) if record else "",
        "since": record.taken if record else "",
        "tries": record.tries if record else 0,
        "windows": beat.get("windows"),
        "watched": bool(beat),
    }
