"""Progress of an evolution in the terminal."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from rich.box import SIMPLE_HEAD
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from rstar_math.cli.display import err, out
from rstar_math.evolution.estimate import Plan
from rstar_math.text import sanitize
from rstar_math.types import Problem

_TRAINING = "step "
_WORDS = {"synthesis-drafts": "with a problem", "synthesis": "kept"}
"""What is counted in stages where nothing is right or wrong."""


class Rounds:
    """A bar for the stage under way, and lines that stay for those that are done."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._began = monotonic()
        self._stage = ""
        self._tokens = self._done = 0
        self._solved: Counter[str] = Counter()
        self._tried: Counter[str] = Counter()

    def begin(self, stage: str, description: str, total: int | None, done: int) -> None:
        """See `evolution.progress.ProgressListener`."""
        self.end()
        self._began, self._tokens, self._done = monotonic(), 0, 0
        self._stage = stage
        self._solved.clear()
        self._tried.clear()
        number, of_round, _ = stage.partition("/")
        name = f"round {number}: {description}" if number != "0" else f"before: {description}"
        name = name if of_round else description
        self._task = self._progress.add_task(name, total=total, completed=done, note="")

    def advance(self, problem: Problem, *, solved: bool, tokens: int) -> None:
        """See `evolution.progress.ProgressListener`."""
        assert self._task is not None
        level = problem.level or problem.source or "all"
        self._tried[level] += 1
        self._solved[level] += solved
        self._tokens += tokens
        self._done += 1
        self._progress.update(self._task, advance=1, note=self._note())

    def say(self, line: str) -> None:
        """See `evolution.progress.ProgressListener`."""
        if line.startswith(_TRAINING) and self._task is not None:
            self._progress.update(self._task, note=sanitize(line))
        else:
            self._progress.console.print(sanitize(line), markup=False, soft_wrap=True)

    def end(self) -> None:
        """The stage under way is over: its bar becomes a line."""
        if self._task is None:
            return
        task = self._progress.tasks[-1]
        seconds = monotonic() - self._began
        note = f", {self._note()}" if self._done else ""
        self._progress.console.print(
            sanitize(f"{task.description}: {seconds:.0f} s{note}"),
            markup=False,
            style="dim",
            soft_wrap=True,
        )
        self._progress.remove_task(self._task)
        self._task = None

    def _note(self) -> str:
        """Rate, and solved share by level."""
        seconds = max(monotonic() - self._began, 1e-9)
        shares = [f"{self._solved[name] / n:.0%} of {name}" for name, n in self._tried.items()]
        word = _WORDS.get(self._stage.rpartition("/")[2], "right")
        right = f"{sum(self._solved.values()) / max(self._done, 1):.0%} {word}"
        if 1 < len(shares) <= 4:
            right += f" ({', '.join(sorted(shares))})"
        return f"{right}, {self._tokens / seconds:.0f} tokens/s"


@contextmanager
def watch_rounds() -> Iterator[Rounds]:
    """A watch on stderr."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        watch = Rounds(progress)
        try:
            yield watch
        finally:
            watch.end()


def show_plan(plan: Plan) -> None:
    """The plan as a table on stdout."""
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("stage", no_wrap=True)
    for name in ("problems", "calls", "tokens", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for part in plan.stages:
        calls = f"{part.calls:,}" if part.calls else "-"
        figures = (f"{part.problems:,}", calls, f"{part.tokens:,}", _lasting(part.hours))
        table.add_row(part.stage, *figures)
    calls, tokens = (sum(getattr(p, name) for p in plan.stages) for name in ("calls", "tokens"))
    table.add_row("all", "", f"{calls:,}", f"{tokens:,}", _lasting(plan.hours))
    pilot = plan.pilot
    out.print(table)
    if any(part.stage.startswith("0/drafts") for part in plan.stages):
        out.print(
            "Drafts are reckoned from the recipe, as if all were as long as they may be and none "
            "were left out; their solutions by the pilot's greedy answers; and all of them are "
            "searched in the rounds.",
            highlight=False,
        )
    out.print(
        f"From a short pilot on this machine: {pilot.rollout.tokens:.0f} tokens a rollout, "
        f"{pilot.tokens_per_s:.0f} a second; {pilot.greedy.tokens:.0f} tokens a greedy answer, in "
        f"{pilot.greedy.seconds:.2g} s; {pilot.training_tokens_per_s:.0f} tokens a second in a "
        f"training. {plan.counts['to learn from']} problems to learn from, "
        f"{plan.counts['held out']} held out. A trained policy says it shorter than a base "
        "that goes by examples, and further rollouts are only for what is unsolved, so it may take "
        "less.",
        highlight=False,
    )


def _lasting(hours: float) -> str:
    """A time for people."""
    if hours < 1 / 30:
        return f"{3600 * hours:.0f} s"
    return f"{60 * hours:.0f} min" if hours < 2 else f"{hours:.1f} h"
