"""Progress where stderr is not a terminal."""

import io
import time

import pytest
from rich.console import Console
from rich.progress import Progress

from rstar_math.cli import display


def wait_for_line(text: io.StringIO) -> str:
    end = time.monotonic() + 20
    while not text.getvalue() and time.monotonic() < end:
        time.sleep(0.01)
    return text.getvalue()


def test_a_redirected_log_gets_lines_with_counts_and_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "LINE_INTERVAL_S", 0.02)
    text = io.StringIO()
    console = Console(file=text, force_terminal=False)
    with Progress(console=console) as progress, display.progress_lines(progress):
        task = progress.add_task("sc@8", total=100, completed=40, note="12 right")
        progress.update(task, advance=2)
        line = wait_for_line(text).splitlines()[0]
    assert line.startswith("sc@8: 42/100")
    assert line.endswith("12 right")


def test_a_terminal_gets_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "LINE_INTERVAL_S", 0.01)
    text = io.StringIO()
    console = Console(file=text, force_terminal=True)
    progress = Progress(console=console)
    progress.add_task("sc@8", total=100, note="")
    with display.progress_lines(progress):
        time.sleep(0.1)
    assert text.getvalue() == ""


def test_an_unsafe_note_is_made_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "LINE_INTERVAL_S", 0.01)
    text = io.StringIO()
    with Progress(console=Console(file=text, force_terminal=False)) as progress:
        progress.add_task("x", total=None, note="[bold]\x1b[31m")
        with display.progress_lines(progress):
            line = wait_for_line(text)
    assert "\x1b" not in line
    assert "[bold]" in line
