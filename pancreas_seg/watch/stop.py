"""An end that is asked for by a signal, at a moment that suits."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(BaseException):
    """The end was asked for. Like KeyboardInterrupt it passes by those who catch Exception."""


class Stop:
    """Whether the end was asked for.

    A flag and no threading.Event, whose lock the interrupted main thread might hold.
    """

    def __init__(self) -> None:
        self.asked = False
        self._interruptible = False

    def ask(self, *_: object) -> None:
        """Ask for the end: at once in an interruptible part, otherwise at the next."""
        self.asked = True
        if self._interruptible:
            self._interruptible = False
            raise Stopped

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A part that may be left at any point.

        Raises
        ------
        Stopped
        """
        self._interruptible = True
        try:
            if self.asked:
                raise Stopped
            yield
        finally:
            self._interruptible = False

    def wait(self, seconds: float) -> None:
        """Sleep.

        Raises
        ------
        Stopped
        """
        with self.interruptible():
            time.sleep(seconds)


@contextmanager
def stopping_on_signals() -> Iterator[Stop]:
    """SIGTERM and SIGINT ask for the end; the former handlers are put back."""
    stop = Stop()

    def handler(_number: int, _frame: FrameType | None) -> None:
        stop.ask()

    former = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, old in former.items():
            signal.signal(number, old)
