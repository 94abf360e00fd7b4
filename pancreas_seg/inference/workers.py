"""Several processes, each with networks of its own, that segment one case after the other.

Reading, computing and writing of different cases overlap. A process that dies takes one case with it: the case has
failed, another process takes its place.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from pancreas_seg.inference.cohort import (
    CaseInput,
    CaseOptions,
    CaseOutcome,
    leave_no_result,
    prepare,
    segment_case,
    write_summary,
)
from pancreas_seg.inference.segmenter import Segmenter

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_GRACE_S = 10.0
"""How long a process that is ended may take to remove what it was writing."""

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    pipe: Connection
    at: int | None = None
    """Index of the case in hand."""
    since: float = field(default_factory=time.perf_counter)


def segment_in_processes(
    load: Callable[[], Segmenter],
    cases: Sequence[CaseInput],
    out: Path,
    jobs: int,
    options: CaseOptions = CaseOptions(),  # noqa: B008
    threads: int = 0,
    on_done: Callable[[int, int], None] | None = None,
) -> list[CaseOutcome]:
    """Segment cases into ``out/<case>`` in several processes and keep ``out/summary.csv`` up to date.

    Parameters
    ----------
    load : callable
        Makes the Segmenter; called in each process, so it must be picklable, as ``options`` must be.
    cases : sequence of CaseInput
    out : Path
    jobs : int
        Processes at most.
    options : CaseOptions
    threads : int
        Of numerical libraries in each process; 0 leaves them to decide.
    on_done : callable, optional
        Called with cases done and cases in all.

    Returns
    -------
    list of CaseOutcome
        In the order of the cases.

    Raises
    ------
    OSError
        See `pancreas_seg.inference.cohort.segment_cases`.
    """
    prepare(out)
    outcomes: dict[int, CaseOutcome] = {}
    waiting = list(range(len(cases)))[::-1]
    workers: list[_Worker] = []
    with _environment(dict.fromkeys(_THREADS, str(threads)) if threads else {}):
        try:
            while len(outcomes) < len(cases):
                while waiting and len(workers) < min(jobs, len(cases)):
                    workers.append(_started(load, out, options))
                for worker in workers:
                    if worker.at is None and waiting:
                        _give(worker, waiting.pop(), cases)
                for worker, outcome in _ended(workers, cases, out):
                    if worker.at is not None:
                        outcomes[worker.at] = outcome
                    worker.at = None
                    with suppress(OSError):
                        write_summary(out, [outcomes[n] for n in sorted(outcomes)])
                    if on_done is not None:
                        on_done(len(outcomes), len(cases))
                # One that has died with a case in hand stays until the end of its pipe has been seen.
                workers = [w for w in workers if w.at is not None or w.process.is_alive()]
        finally:
            for worker in workers:
                worker.pipe.close()
                worker.process.terminate()
            for worker in workers:
                worker.process.join(_GRACE_S)
                worker.process.kill()
                worker.process.join()
    write_summary(out, [outcomes[n] for n in sorted(outcomes)])
    return [outcomes[n] for n in sorted(outcomes)]


def _started(load: Callable[[], Segmenter], out: Path, options: CaseOptions) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    level = logging.getLogger("pancreas_seg").level
    process = context.Process(target=_work, args=(theirs, load, out, options, level), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _give(worker: _Worker, index: int, cases: Sequence[CaseInput]) -> None:
    worker.at, worker.since = index, time.perf_counter()
    # A process that has just died is noticed by its pipe's end, with this case as the one in hand.
    with suppress(OSError):
        worker.pipe.send(cases[index])


def _ended(workers: Sequence[_Worker], cases: Sequence[CaseInput], out: Path) -> Iterator[tuple[_Worker, CaseOutcome]]:
    """Wait until some case has ended, well or with its process."""
    ready = wait([worker.pipe for worker in workers])
    for worker in [w for w in workers if w.pipe in ready and w.at is not None]:
        case = cases[worker.at or 0].case
        try:
            yield worker, worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            log.error("%s: failed: its process ended with code %s", case, worker.process.exitcode)
            leave_no_result(out / case)
            yield worker, CaseOutcome(case, "failed", "process.died", "", f"{time.perf_counter() - worker.since:.2f}")


def _work(pipe: Connection, load: Callable[[], Segmenter], out: Path, options: CaseOptions, level: int) -> None:
    """What each process does: the cases it is given, until there are no more, the parent is gone or ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("pancreas_seg").setLevel(level)
    try:
        segmenter = load()
        while True:
            pipe.send(segment_case(segmenter, pipe.recv(), out, options))
    except (EOFError, OSError, KeyboardInterrupt):
        return


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def _environment(values: Mapping[str, Any]) -> Iterator[None]:
    """Environment variables for processes started in the block, where they aren't set already."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
