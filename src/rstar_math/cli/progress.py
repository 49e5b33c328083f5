"""Shows the progress of an evolution in the terminal."""

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

from rstar_math.cli.display import err, out, progress_lines
from rstar_math.evolution.estimate import Plan
from rstar_math.text import sanitize
from rstar_math.types import Problem

_TRAINING_PREFIX = "step "
"""How the progress lines of a training start."""
_SUCCESS_LABELS = {"synthesis-drafts": "with a problem", "synthesis": "kept"}
"""The meaning of `solved` in stages that grade no answers."""


class EvolutionDisplay:
    """A `ProgressListener`: a progress bar for the active stage, and a line per finished stage."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._started_at = monotonic()
        self._stage = ""
        self._tokens = self._done = 0
        self._solved: Counter[str] = Counter()
        self._tried: Counter[str] = Counter()

    def begin(self, stage: str, description: str, total: int | None, done: int) -> None:
        """See `evolution.progress.ProgressListener`."""
        self.end()
        self._started_at, self._tokens, self._done = monotonic(), 0, 0
        self._stage = stage
        self._solved.clear()
        self._tried.clear()
        number, slash, _ = stage.partition("/")
        round_name = "before round 1" if number == "0" else f"round {number}"
        name = f"{round_name}: {description}" if slash else description
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
        if line.startswith(_TRAINING_PREFIX) and self._task is not None:
            self._progress.update(self._task, note=sanitize(line))
        else:
            self._progress.console.print(sanitize(line), markup=False, soft_wrap=True)

    def end(self) -> None:
        """Replace the bar of the active stage by a line."""
        if self._task is None:
            return
        task = self._progress.tasks[-1]
        seconds = monotonic() - self._started_at
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
        """The solved share in total and by level, and the token rate."""
        seconds = max(monotonic() - self._started_at, 1e-9)
        shares = [f"{self._solved[name] / n:.0%} of {name}" for name, n in self._tried.items()]
        label = _SUCCESS_LABELS.get(self._stage.rpartition("/")[2], "right")
        note = f"{sum(self._solved.values()) / max(self._done, 1):.0%} {label}"
        if 1 < len(shares) <= 4:
            note += f" ({', '.join(sorted(shares))})"
        return f"{note}, {self._tokens / seconds:.0f} tokens/s"


@contextmanager
def watch_rounds() -> Iterator[EvolutionDisplay]:
    """Shows the progress of an evolution on stderr."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=err, transient=True) as progress, progress_lines(progress):
        display = EvolutionDisplay(progress)
        try:
            yield display
        finally:
            display.end()


def print_plan(plan: Plan) -> None:
    """Print the estimate as a table on stdout."""
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("stage", no_wrap=True)
    for name in ("problems", "calls", "tokens", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in plan.stages:
        calls = f"{stage.calls:,}" if stage.calls else "-"
        figures = (f"{stage.problems:,}", calls, f"{stage.tokens:,}", _duration(stage.hours))
        table.add_row(stage.stage, *figures)
    calls, tokens = (sum(getattr(p, name) for p in plan.stages) for name in ("calls", "tokens"))
    table.add_row("total", "", f"{calls:,}", f"{tokens:,}", _duration(plan.hours))
    pilot = plan.pilot
    out.print(table)
    if any(stage.stage.startswith("0/drafts") for stage in plan.stages):
        out.print(
            "Drafts are estimated from the recipe: all have the maximum length, all are kept, and "
            "all are searched in the rounds. Their solutions are estimated from the pilot's "
            "greedy answers.",
            highlight=False,
        )
    out.print(
        f"Measured in a short pilot run on this machine: {pilot.rollout.tokens:.0f} tokens per "
        f"rollout, {pilot.tokens_per_s:.0f} tokens/s; {pilot.greedy.tokens:.0f} tokens and "
        f"{pilot.greedy.seconds:.2g} s per greedy answer; "
        f"{pilot.training_tokens_per_s:.0f} tokens/s in training. "
        f"{plan.counts['to learn from']} training problems, {plan.counts['held out']} held-out "
        "problems. The run may take less time: a trained policy writes shorter solutions than a "
        "base model with few-shot examples, and only unsolved problems need retry rollouts.",
        highlight=False,
    )


def _duration(hours: float) -> str:
    """A duration as text, for example "40 s", "12 min" or "3.5 h"."""
    if hours < 1 / 30:
        return f"{3600 * hours:.0f} s"
    return f"{60 * hours:.0f} min" if hours < 2 else f"{hours:.1f} h"
