"""Progress of downloads: events, and lines on stderr."""

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
"""Seconds between two lines."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of a download."""

    model: str
    stage: Literal["waiting", "downloading", "checking", "done"]
    done_bytes: int = 0
    total_bytes: int = 0
    source: str = ""
    """Where the files come from, in words."""
    note: str = ""
    """A sentence that is to be shown once, at once."""


OnProgress = Callable[[Progress], None]
"""Called often, in the thread that downloads. What it raises ends the download, which can go on
later."""


def megabytes(count: int) -> str:
    """A number of bytes for people: "491 MB", "1.12 GB"."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class Rate:
    """Bytes per second since the download began or went on."""

    def __init__(self) -> None:
        self._began: tuple[float, int] | None = None

    def add(self, done_bytes: int) -> float:
        """Count up to `done_bytes`; the mean rate in bytes per second."""
        if self._began is None or done_bytes < self._began[1]:
            self._began = (monotonic(), done_bytes)
        seconds = monotonic() - self._began[0]
        return (done_bytes - self._began[1]) / seconds if seconds > 0 else 0.0


class LineDisplay:
    """Progress as lines of text: what is downloaded and how large it is, then every 15 s how far it
    is, also while no bytes arrive. Use it as a context manager; its value is an
    `ProgressCallback`."""

    def __init__(self, stream: TextIO | None = None, *, every_s: float = EVERY_S) -> None:
        self._stream = stream or sys.stderr
        self._every_s = every_s
        self._rate = Rate()
        self._state: Progress | None = None
        self._began: set[tuple[str, str]] = set()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def __call__(self, progress: Progress) -> None:
        """Take in a new state."""
        if progress.note:
            self._say(progress.note)
        first = (progress.stage, progress.source) not in self._began
        self._began.add((progress.stage, progress.source))
        self._state = progress
        if first and progress.stage == "waiting":
            self._say(f"{progress.model}: another process downloads it; waiting")
        elif first and progress.stage == "downloading":
            self._say(start_line(progress))
        elif progress.stage == "done":
            self._say(f"{progress.model}: {megabytes(progress.done_bytes)} are here and checked")
        if progress.stage == "downloading":
            self._rate.add(progress.done_bytes)
        if self._thread is None:
            self._thread = threading.Thread(target=self._tick, daemon=True)
            self._thread.start()

    def _tick(self) -> None:
        while not self._ended.wait(self._every_s):
            state = self._state
            if state is None or state.stage == "done":
                continue
            if state.stage != "downloading":
                self._say(f"{state.model}: {state.stage}")
                continue
            self._say(f"{state.model}: {progress_line(state, self._rate.add(state.done_bytes))}")

    def _say(self, line: str) -> None:
        print(f"rstar: {sanitize(line)}", file=self._stream, flush=True)


Display = Callable[[], AbstractContextManager[OnProgress]]
_display: list[Display] = [LineDisplay]


def current_display() -> AbstractContextManager[OnProgress]:
    """The display for a caller who gave none: lines on stderr, or what `display_with` named."""
    return _display[0]()


def display_with(display: Display) -> None:
    """Show progress by another display from now on; the command line has a bar for terminals."""
    _display[0] = display


def start_line(progress: Progress) -> str:
    """The line that says what is downloaded, how large it is and from where."""
    have = f", {megabytes(progress.done_bytes)} are here already" if progress.done_bytes else ""
    size = megabytes(progress.total_bytes)
    return f"downloading {progress.model} ({size}) from {progress.source}{have}"


def progress_line(progress: Progress, rate: float) -> str:
    """Bytes, share, rate and time left."""
    share = progress.done_bytes / max(progress.total_bytes, 1)
    left = (progress.total_bytes - progress.done_bytes) / rate if rate > 0 else None
    return (
        f"{megabytes(progress.done_bytes)} of {megabytes(progress.total_bytes)} ({share:.0%}), "
        f"{rate / 1e6:.1f} MB/s, {duration(left) + ' left' if left is not None else 'waiting'}"
    )
