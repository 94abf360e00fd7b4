"""The loop: take a case, segment it, put it where it belongs, again."""

from __future__ import annotations

import errno
import logging
import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pancreas_seg.errors import PancreasSegError
from pancreas_seg.inference.cohort import CaseInput, CaseOutcome
from pancreas_seg.watch.claim import Claim, Held, Leases, LostError, held, now, take, take_over
from pancreas_seg.watch.folders import REASON, Folders, case_of, read_json
from pancreas_seg.watch.inbox import Arrival, Inbox, signature_of
from pancreas_seg.watch.process import Process
from pancreas_seg.watch.pulse import Pulse
from pancreas_seg.watch.segmenting import SegmentOne
from pancreas_seg.watch.status import Status
from pancreas_seg.watch.stop import Stop, Stopped

LEAST_FREE_BYTES = 500_000_000
"""With less room for results no case is taken: a full disk would make one after the other fail."""

MOST_TRIES = 20
"""A case that was begun so often without an end is taken for the reason, for example by its need of memory."""

_SOON = 3
"""Cases begun less often come before new ones; others after, so that they don't hold them up."""

_NOT_WRITTEN = "output.not_written"
"""What segment_cases says where the file system and not the case is at fault."""

_ORPHANED_S = 3600.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WatchOptions:
    """How to watch.

    Parameters
    ----------
    settle_s : float
        For how long nothing of an arrival may have changed.
    interval_s : float
        Pause between two looks.
    lease_s : float
        After how long without a sign of life others take a case over.
    once : bool
        Whether to end when nothing waits and nothing is running.
    """

    settle_s: float = 10.0
    interval_s: float = 5.0
    lease_s: float = 180.0
    once: bool = False


def watch(
    inputs: Path, out: Path, segment: SegmentOne, options: WatchOptions | None = None, stop: Stop | None = None
) -> list[CaseOutcome]:
    """Segment what is dropped into a folder, until the end is asked for.

    Parameters
    ----------
    inputs : Path
        The watched folder. Inputs are moved in it: to running/, and from there to done/, refused/ or failed/.
    out : Path
        Gets a folder for each case, summary.csv, status.json and status.html.
    segment : callable
        See `segmenting.segment_with`.
    options : WatchOptions, optional
    stop : Stop, optional
        Through which the end is asked for; without it there is none, but for ``options.once``.

    Returns
    -------
    list of CaseOutcome
        Of the cases that this call has ended.

    Raises
    ------
    ConfigError
        If the folders cannot be used.
    """
    folders = Folders(inputs, out)
    folders.make()
    return _Watcher(folders, segment, options or WatchOptions(), stop or Stop()).run()


class _Watcher:
    def __init__(self, folders: Folders, segment: SegmentOne, options: WatchOptions, stop: Stop) -> None:
        self._folders = folders
        self._segment = segment
        self._options = options
        self._stop = stop
        self._me = Process.here()
        self._inbox = Inbox(folders.inputs, options.settle_s, time.monotonic)
        self._leases = Leases(options.lease_s, time.monotonic)
        self._refusing: dict[str, str] = {}
        self._outcomes: list[CaseOutcome] = []
        status = Status(folders, self._inbox, options.interval_s)
        self._pulse = Pulse(folders, self._me, status, min(options.interval_s, options.lease_s / 4))

    def run(self) -> list[CaseOutcome]:
        _remove_orphans(self._folders)
        log.info("watching %s as %s", self._folders.inputs, self._me)
        with self._pulse:
            try:
                while self._round():
                    pass
            except Stopped:
                log.info("stopped")
        return self._outcomes

    def _round(self) -> bool:
        """One case, or a pause; False when there is nothing left to wait for."""
        self._pulse.active()
        try:
            claim, waits = self._next()
            if claim is not None:
                self._case(claim)
                return True
            if self._options.once and not waits:
                self._outcomes += [
                    CaseOutcome(case_of(name), "failed", "watch.cannot_be_taken", "", "") for name in self._refusing
                ]
                return False
        except OSError as error:
            if self._options.once:
                raise
            self._trouble(f"{error.strerror or error} ({error.filename or 'no file named'})")
            with suppress(PancreasSegError, OSError):
                self._folders.make()
        self._stop.wait(self._options.interval_s)
        return True

    def _next(self) -> tuple[Claim | None, bool]:
        """A case to segment, if there is one, and whether there are any that aren't for us yet."""
        look, running = self._inbox.look(), held(self._folders)
        free = self._leases.over(running)
        if shutil.disk_usage(self._folders.out).free < LEAST_FREE_BYTES:
            text = f"less than {LEAST_FREE_BYTES / 1e6:.0f} MB free for results; no case is taken"
            if self._options.once:
                raise OSError(errno.ENOSPC, text, str(self._folders.out))
            self._trouble(text)
            return None, True
        claim = (
            self._taken_over([case for case in free if _is_soon(case)])
            or self._taken(look.ready)
            or self._taken_over([case for case in free if not _is_soon(case)])
        )
        waits = bool(look.settling or running or len(self._refusing) < len(look.ready))
        self._trouble("; ".join(f"{name} cannot be taken: {why}" for name, why in sorted(self._refusing.items())))
        return claim, waits

    def _taken(self, arrivals: tuple[Arrival, ...]) -> Claim | None:
        self._refusing = {}
        for arrival in arrivals:
            try:
                claim = take(self._folders, arrival, self._me, self._options.lease_s)
            except OSError as error:
                self._refusing[arrival.path.name] = error.strerror or "cannot be moved"
                continue
            if claim is not None:
                return claim
        return None

    def _taken_over(self, cases: list[Held]) -> Claim | None:
        for case in cases:
            claim = take_over(self._folders, case, self._me, self._options.lease_s)
            if claim is not None:
                return claim
        return None

    def _trouble(self, text: str) -> None:
        if text and text != self._pulse.problem:
            log.warning("%s", text)
        self._pulse.problem = text

    def _case(self, claim: Claim) -> None:
        self._pulse.begin(claim)
        try:
            if claim.record.outcome is None:
                self._one_try(claim)
            if claim.record.outcome is not None:
                self._end(claim)
        except LostError:
            log.warning("%s: somebody else has taken it over; what was made here is dropped", claim.record.case)
            shutil.rmtree(claim.work, ignore_errors=True)
        finally:
            self._pulse.end()

    def _one_try(self, claim: Claim) -> None:
        """Segment; the record then has an outcome, or the case was given back."""
        case, tries, failures = claim.record.case, claim.record.tries, claim.record.failures
        before = signature_of(claim.input)
        if tries > MOST_TRIES:
            outcome = CaseOutcome(case, "failed", "watch.interrupted", "", "")
        else:
            try:
                with self._stop.interruptible():
                    outcome = self._segment(CaseInput(case, claim.input), claim.work, self._pulse.progress)
            except Stopped:
                claim.give_back(tries - 1)
                raise
            except OSError:
                claim.give_back(tries)
                raise
            except Exception:
                log.exception("%s: failed", case)
                outcome = CaseOutcome(case, "failed", "bug", "", "")
            if signature_of(claim.input) != before:
                log.warning("%s: changed while it was read; waits again", case)
                shutil.rmtree(claim.work, ignore_errors=True)
                claim.give_back(tries - 1)
                self._stop.wait(self._options.settle_s)
                return
            if outcome.status == "failed" and outcome.reasons == _NOT_WRITTEN:
                claim.give_back(tries)
                raise OSError(errno.EIO, "a result could not be written", str(self._folders.out))
            if outcome.status == "failed" and failures == 0:
                shutil.rmtree(claim.work, ignore_errors=True)
                claim.change(watcher=None, tries=tries - 1, failures=1)
                return
        reasons = _reasons(claim.work / case, outcome)
        claim.change(outcome={k: str(v) for k, v in asdict(outcome).items()}, reasons=reasons, ended=now())

    def _end(self, claim: Claim) -> None:
        """Move result and input to where they stay. Whoever finds this half done can go on with it."""
        outcome = CaseOutcome(**(claim.record.outcome or {}))
        result = claim.work / claim.record.case
        names = self._folders.free_names(claim.record.case)
        name = claim.record.output or next(names)
        if outcome.status != "failed":
            is_there = claim.record.output and (self._folders.out / name / "result.json").is_file()
            if outcome.status != "refused" and not (result.is_dir() or is_there):
                claim.change(outcome=None, output="", watcher=None)  # somebody deleted it; it is made again
                return
            while result.is_dir():
                claim.change(output=name)
                if claim.move(result, self._folders.out / name):
                    break
                name = next(names)
        if outcome.status in ("refused", "failed"):
            lines = [f"{outcome.status}: {reason['code']}\n{reason['text']}\n" for reason in claim.record.reasons]
            claim.write_text(REASON, "".join(lines))
        self._pulse.end()
        end = outcome.status if outcome.status in ("refused", "failed") else "done"
        while not claim.move(claim.folder, self._folders.inputs / end / name):
            name = next(names)
        shutil.rmtree(claim.work, ignore_errors=True)
        self._outcomes.append(outcome)
        volume = f", {outcome.volume_ml} ml" if outcome.volume_ml else ""
        why = f" ({outcome.reasons})" if outcome.reasons else ""
        log.info("%s: %s%s%s", name, outcome.status, why, volume)


def _is_soon(case: Held) -> bool:
    return case.record is None or case.record.outcome is not None or case.record.tries < _SOON


def _reasons(result: Path, outcome: CaseOutcome) -> tuple[dict[str, str], ...]:
    """Codes and texts, from result.json if there is one."""
    listed: Any = read_json(result / "result.json").get("reasons")
    if isinstance(listed, list) and outcome.status != "failed":
        return tuple({"code": str(reason["code"]), "text": str(reason["text"])} for reason in listed)
    if outcome.reasons == "watch.interrupted":
        text = f"Begun {MOST_TRIES} times, its watcher was killed or could not write each time. Is there enough memory?"
        return ({"code": outcome.reasons, "text": text},)
    if outcome.status == "failed":
        return ({"code": outcome.reasons, "text": "It failed twice; the watcher's log says where. Please report it."},)
    return ()


def _remove_orphans(folders: Folders) -> None:
    """Delete old unfinished results whose case is no longer running."""
    works, tokens = [], set()
    for path in folders.work.iterdir():
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _ORPHANED_S:
                works.append(path)
    for case in held(folders):
        tokens |= {case.folder.name.rpartition(".")[2], case.record.work if case.record else ""}
    for work in works:
        if work.name not in tokens:
            shutil.rmtree(work, ignore_errors=True)
