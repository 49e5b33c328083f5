"""Reports the progress of downloads: states, callbacks and a display that prints lines."""

import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Literal, Self, TextIO

from rstar_math.text import sanitize

EVERY_S = 15.0
"""Default number of seconds between two progress lines."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of a download."""

    model: str
    stage: Literal["waiting", "downloading", "checking", "done"]
    done_bytes: int = 0
    total_bytes: int = 0
    source: str = ""
    """Name of the site the files come from, for display."""
    note: str = ""
    """A sentence to display once, immediately."""


DownloadCallback = Callable[[Progress], None]
"""Receives each new state, in the downloading thread. An exception it raises stops the download,
which can be resumed later."""


def megabytes(count: int) -> str:
    """Format a number of bytes: "491 MB", "1.12 GB"."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def duration(seconds: float) -> str:
    """Format a number of seconds: "42 s", "12 min", "1.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class Rate:
    """Measures the mean rate of a download since it started or resumed."""

    def __init__(self) -> None:
        self._start: tuple[float, int] | None = None
        """Time of the first measurement, and the bytes that existed then."""

    def add(self, done_bytes: int) -> float:
        """Record that `done_bytes` exist now, and return the mean rate in bytes per second."""
        if self._start is None or done_bytes < self._start[1]:
            self._start = (monotonic(), done_bytes)
        seconds = monotonic() - self._start[0]
        return (done_bytes - self._start[1]) / seconds if seconds > 0 else 0.0


class LineDisplay:
    """Prints progress as lines of text.

    The first line names the model and its size. A progress line follows every `every_s` seconds,
    even while no bytes arrive. The object is a context manager and a `DownloadCallback`.
    """

    def __init__(self, stream: TextIO | None = None, *, every_s: float = EVERY_S) -> None:
        self._stream = stream or sys.stderr
        self._every_s = every_s
        self._rate = Rate()
        self._state: Progress | None = None
        self._announced: set[tuple[str, str]] = set()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def __call__(self, progress: Progress) -> None:
        """Record a new state, and print a line if the stage changed."""
        if progress.note:
            self._print(progress.note)
        first = (progress.stage, progress.source) not in self._announced
        self._announced.add((progress.stage, progress.source))
        self._state = progress
        if first and progress.stage == "waiting":
            self._print(f"{progress.model}: waiting for another process that downloads it")
        elif first and progress.stage == "downloading":
            self._print(start_line(progress))
        elif progress.stage == "done":
            self._print(
                f"{progress.model}: {megabytes(progress.done_bytes)} downloaded and verified"
            )
        if progress.stage == "downloading":
            self._rate.add(progress.done_bytes)
        if self._thread is None:
            self._thread = threading.Thread(target=self._print_periodically, daemon=True)
            self._thread.start()

    def _print_periodically(self) -> None:
        while not self._closed.wait(self._every_s):
            state = self._state
            if state is None or state.stage == "done":
                continue
            if state.stage != "downloading":
                self._print(f"{state.model}: {state.stage}")
                continue
            rate = self._rate.add(state.done_bytes)
            self._print(f"{state.model}: {_progress_line(state, rate)}")

    def _print(self, line: str) -> None:
        print(f"rstar: {sanitize(line)}", file=self._stream, flush=True)


Display = Callable[[], AbstractContextManager[DownloadCallback]]
_display: list[Display] = [LineDisplay]


def current_display() -> AbstractContextManager[DownloadCallback]:
    """Return a new default display: lines on stderr, or the display given to `set_display`."""
    return _display[0]()


def set_display(display: Display) -> None:
    """Replace the default display of this process; the command line installs a progress bar."""
    _display[0] = display


def start_line(progress: Progress) -> str:
    """Return the line that announces a download: model, size, source and bytes already present."""
    present = f", {megabytes(progress.done_bytes)} already present" if progress.done_bytes else ""
    size = megabytes(progress.total_bytes)
    return f"downloading {progress.model} ({size}) from {progress.source}{present}"


def _progress_line(progress: Progress, rate: float) -> str:
    """Return bytes, share, rate and remaining time as one line; `rate` is in bytes per second."""
    share = progress.done_bytes / max(progress.total_bytes, 1)
    remaining_s = (progress.total_bytes - progress.done_bytes) / rate if rate > 0 else None
    remaining = "waiting" if remaining_s is None else f"{duration(remaining_s)} left"
    return (
        f"{megabytes(progress.done_bytes)} of {megabytes(progress.total_bytes)} ({share:.0%}), "
        f"{rate / 1e6:.1f} MB/s, {remaining}"
    )
