"""Terminal output: live searches, solutions, tables."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from rstar_math.evaluation.metrics import Summary
from rstar_math.evaluation.sanity import SanityCheck
from rstar_math.prompts.actions import label
from rstar_math.prompts.grammar import comment_text, program_output
from rstar_math.search.tree import Tree
from rstar_math.solver.solver import ProgressCallback, Solution
from rstar_math.text import sanitize
from rstar_math.types import Cost, Execution, Problem, Step, Verdict

err = Console(stderr=True, highlight=False)
out = Console(highlight=False)
if not out.is_terminal:
    out = Console(highlight=False, width=120)


def _safe(text: str) -> str:
    """Foreign text for a line with rich's markup."""
    return escape(sanitize(text))


MARKS = {Verdict.RIGHT: "[green]right[/]", Verdict.WRONG: "[red]wrong[/]"}


@contextmanager
def watching(rollouts: int) -> Iterator[ProgressCallback]:
    """A line on stderr that says how far a search is; pass its value as `on_progress`."""
    started = monotonic()
    with Live(Text("asking the model ..."), console=err, transient=True) as live:

        def update(tree: Tree) -> None:
            seconds = max(monotonic() - started, 1e-9)
            rate = tree.cost.sampled_tokens / seconds
            live.update(
                Text(
                    f"rollout {tree.rollouts}/{rollouts}   {len(tree) - 1} steps   "
                    f"{len(tree.answers())} answers   {tree.cost.code_failures} failed programs   "
                    f"{rate:.0f} tokens/s   {seconds:.0f} s"
                )
            )

        yield update


@contextmanager
def counting(what: str, total: int, done: int) -> Iterator[Progress]:
    """A progress bar on stderr with counts and the time left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        progress.add_task(what, total=total, completed=done, note="")
        yield progress


def solution(found: Solution) -> RenderableType:
    """The chosen path step by step, the answer, what spoke for it and what it cost."""
    parts: list[RenderableType] = []
    choice, tree = found.choice, found.tree
    if choice.node is not None:
        path = tree.trajectory(choice.node)
        valued = any(node.value_sum for node in tree)
        values = path.q if valued else (None,) * len(path.q)
        for number, (step, q) in enumerate(zip(path.steps, values, strict=True), start=1):
            parts.extend(_step(number, step, q, _block_output(path.steps, number)))
    if choice.answer is None:
        reasons = ", ".join(f"{count} {reason}" for reason, count in tree.failures().items())
        parts.append(
            Text(f"No path ended with an answer ({reasons or 'nothing tried'}).", "yellow")
        )
    else:
        rivals = ", ".join(
            f"{sanitize(answer)} ({votes:.3g})" for answer, votes in choice.votes.items()
        )
        line = Text("Answer ", "bold")
        line.append(sanitize(choice.answer), "bold green")
        what = "score, where a second look agreed" if tree.has_discriminator_votes else "votes"
        line.append(f"   {choice.share:.0%} of the {what}: {rivals}", "dim")
        parts.append(line)
    if tree.stop_reason is not None:
        parts.append(Text(stop_line(tree), "dim"))
    parts.append(Text(cost_line(tree.cost, len(tree) - 1), "dim"))
    return Group(*parts)


def _block_output(steps: tuple[Step, ...], number: int) -> list[Execution]:
    """The runs whose output is shown after a step: those of the code block it ends."""
    if steps[number - 1].kind != "code":
        return []
    runs: list[Execution] = []
    for step in reversed(steps[:number]):
        if step.kind == "code" and step is not steps[number - 1]:
            break
        if step.execution is not None:
            runs.append(step.execution)
    return runs[::-1]


def _step(
    number: int, step: Step, q: float | None, block: list[Execution]
) -> Iterator[RenderableType]:
    """One step's lines."""
    head = Text(f"{number}. ", "bold cyan")
    head.append(sanitize(comment_text(step)) or "(no words)")
    if made := label(step):
        head.append(f"   {made}", "dim")
    if q is not None:
        head.append(f"   Q {q:+.2f}", "dim")
    if step.reasoning:
        head.append(f"   after {len(step.reasoning.split())} words of thoughts", "dim")
    yield head
    if step.code.strip():
        yield Padding(
            Syntax(
                sanitize(step.code.rstrip()),
                "python",
                theme="ansi_dark",
                background_color="default",
            ),
            (0, 0, 0, 4),
        )
    if output := sanitize(program_output(block).rstrip()):
        yield Padding(Text(f"-> {output}", "green" if block[-1].ok else "red"), (0, 0, 0, 4))


def cost_line(cost: Cost, steps: int) -> str:
    """What a search cost, in one line."""
    rate = cost.sampled_tokens / cost.seconds if cost.seconds else 0.0
    judged = f", {cost.scorer_tokens} tokens to score them" if cost.scorer_tokens else ""
    if cost.discriminator_tokens:
        judged = f" ({cost.discriminator_tokens} of them to check the work){judged}"
    return (
        f"{steps} steps tried, {cost.code_runs} programs run ({cost.code_failures} failed), "
        f"{cost.calls} calls, {cost.sampled_tokens} tokens sampled{judged}, {cost.seconds:.1f} s "
        f"({rate:.0f} tokens/s)"
    )


_STOPPED = {
    "decided": "no vote to come could change the answer",
    "confident": "the answer was sure enough",
}


def stop_line(tree: Tree) -> str:
    """Why a search stopped early, and what that spared."""
    reason = _STOPPED.get(tree.stop_reason or "", tree.stop_reason)
    return f"Stopped early: {reason}; about {tree.cost.saved_tokens} tokens spared"


def verdict_line(problem: Problem, answer: str | None, verdict: Verdict | None) -> str:
    """One finished problem in one line, with rich's markup."""
    mark = MARKS.get(verdict, "[yellow]unknown[/]") if verdict is not None else "no reference"
    expected = f", expected {_safe(problem.reference)}" if problem.reference is not None else ""
    given = "no answer" if answer is None else f"answer {_safe(answer)}"
    return f"{_safe(problem.id)}: {given}{expected}: {mark}"


_STATES = {
    "ok": "[green]ok[/]",
    "warning": "[yellow]warning[/]",
    "failed": "[red]failed[/]",
    "unclear": "[yellow]unclear[/]",
}


def gate_line(gate: SanityCheck) -> str:
    """One gate of --check in one line, with rich's markup."""
    return f"{_STATES[gate.state]}  {_safe(gate.name)}: {_safe(gate.message)}"


def summaries(rows: Sequence[Summary]) -> Table:
    """The table of an evaluation; costs are means over the problems. Fits 80 columns."""
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.caption_justify = "left"
    table.add_column("strategy", no_wrap=True)
    for name in (
        "right",
        "share",
        "95 %",
        "none",
        "calls",
        "prompt",
        "tokens",
        "runs",
        "failed",
        "s",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        n = max(row.problems, 1)
        low, high = row.as_json()["interval_95"]
        table.add_row(
            row.strategy,
            f"{row.right}/{row.graded}",
            "-" if row.accuracy is None else f"{row.accuracy:.1%}",
            "-" if low is None else f"{100 * low:.0f}-{100 * high:.0f}",
            str(row.unanswered),
            f"{row.cost.calls / n:.1f}",
            f"{row.cost.prompt_tokens / n:.0f}",
            f"{row.cost.sampled_tokens / n:.0f}",
            f"{row.cost.code_runs / n:.1f}",
            f"{row.cost.code_failures / n:.1f}",
            f"{row.cost.seconds / n:.1f}",
        )
    table.caption = (
        "none: problems without any answer. Means over the problems: calls to the "
        "model, prompt tokens, tokens sampled, programs run and failed, seconds from start to end."
    )
    for row in rows:
        if row.cost.saved_tokens:
            spared = row.cost.saved_tokens / max(row.problems, 1)
            table.caption += f"\n{row.strategy}: stopping early spared about {spared:.0f} tokens."
        if row.cost.discriminator_tokens:
            checked = row.cost.discriminator_tokens / max(row.problems, 1)
            table.caption += f"\n{row.strategy}: {checked:.0f} tokens of these by the second model."
        if row.cost.unscorable:
            table.caption += f"\n{row.strategy}: {row.cost.unscorable} steps could not be judged."
        if row.cost.scorer_tokens:
            judged = row.cost.scorer_tokens / max(row.problems, 1)
            table.caption += f"\n{row.strategy}: {judged:.0f} tokens besides, to score steps."
    return table


def listed_strategies(rows: Sequence[dict[str, Any]]) -> Table:
    """The table of `rstar strategies`."""
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("name", "size", "scorer", "what it does"):
        table.add_column(name, justify="right" if name == "size" else "left")
    for row in rows:
        size = "" if row["default_size"] is None else str(row["default_size"])
        table.add_row(row["name"], size, row["scorer"], row["summary"])
    table.caption_justify = "left"
    table.caption = "Sizes follow @: sc@8, mcts@16; mcts@16x4 makes 4 runs. Yours: module:SPEC"
    return table


def listed_benchmarks(rows: Sequence[dict[str, Any]]) -> Table:
    """The table of `rstar benchmarks`."""
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("name", "size", "answer", "licence", "where"):
        table.add_column(name, justify="right" if name == "size" else "left")
    for row in rows:
        hub = row["hub"]
        where = "here" if row["file"] else f"hf:{hub['name']}" if hub else "by hand"
        table.add_row(row["name"], str(row["size"]), row["answer"], row["licence"], where)
    table.caption_justify = "left"
    table.caption = (
        "here: in the folder of --data or RSTAR_DATA. Known faults: rstar benchmarks NAME"
    )
    return table
