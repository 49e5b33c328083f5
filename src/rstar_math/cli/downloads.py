"""Download progress, and the downloads that a command needs before it starts."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rstar_math.progress import DownloadCallback, Progress, megabytes, set_display, start_line
from rstar_math.text import sanitize

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from rstar_math.config.sections import Config


def use_bar() -> None:
    """Show downloads as a progress bar if stderr is a terminal."""
    if sys.stderr.isatty():
        set_display(bar)


@contextmanager
def bar() -> Iterator[DownloadCallback]:
    """Shows a bar on stderr with bytes, rate and remaining time once a download starts."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from rstar_math.cli.display import err

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=28),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    bars = Progress(*columns, console=err, transient=True)
    try:
        yield _Bar(bars)
    finally:
        bars.stop()


class _Bar:
    """Shows one bar at a time, with a line above it for each stage."""

    def __init__(self, bars: "Bars") -> None:
        self._bars = bars
        self._stage: tuple[str, str] | None = None

    def __call__(self, progress: Progress) -> None:
        """Show a new state."""
        if self._stage is None:
            self._bars.start()
        if progress.note:
            self._say(progress.note)
        if (progress.stage, progress.source) != self._stage:
            self._stage = (progress.stage, progress.source)
            for task in self._bars.task_ids:
                self._bars.remove_task(task)
            if progress.stage == "downloading":
                self._say(start_line(progress))
            if progress.stage == "done":
                self._say(f"{progress.model}: {megabytes(progress.done_bytes)}, verified")
                return
            self._bars.add_task(f"{progress.stage} {progress.model}", total=None)
        if self._bars.task_ids:
            self._bars.update(
                self._bars.task_ids[0],
                completed=progress.done_bytes,
                total=progress.total_bytes or None,
            )

    def _say(self, line: str) -> None:
        self._bars.console.print(f"rstar: {sanitize(line)}", markup=False, soft_wrap=True)


def download_missing(*urls: str, base: str | None = None) -> None:
    """Download the models of `urls`, and the `base` model of a training, if they are missing.

    Server addresses, folders and installed models need no download.
    """
    from rstar_math.checkpoints.folders import require_torch
    from rstar_math.models.downloads import resolve_model
    from rstar_math.models.names import parse_base, parse_name
    from rstar_math.models.storage import stored_path

    servers = ("http://", "https://", "vllm:")
    names = [parse_name(url) for url in urls if not url.startswith(servers) and "," not in url]
    for name in [*names, *([] if base is None else [parse_base(base)])]:
        if name.kind in ("catalogue", "hub-file", "hub-checkpoint") and stored_path(name) is None:
            if name.engine == "transformers":
                require_torch()
            resolve_model(name)


def download_config_models(config: "Config") -> None:
    """Download the models of a configuration if they are missing."""
    from rstar_math.config.sections import NO_MODEL

    urls = (config.model.url, config.discriminator.url)
    download_missing(*(url for url in urls if url not in ("same", NO_MODEL)))
