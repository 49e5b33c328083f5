"""Terminal output: progress, solutions, tables."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread
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
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from rstar_math.evaluation.metrics import Summary
from rstar_math.evaluation.sanity import SanityCheck
from rstar_math.progress import duration
from rstar_math.prompts.actions import label
from rstar_math.prompts.grammar import comment_text, program_output
from rstar_math.search.mcts import RolloutCallback
from rstar_math.search.tree import Node, Tree
from rstar_math.solver.solution import Solution
from rstar_math.text import count_noun, sanitize
from rstar_math.types import Cost, Execution, Problem, Step, Verdict

err = Console(stderr=True, highlight=False)
out = Console(highlight=False)
if not out.is_terminal:
    out = Console(highlight=False, width=120)


SHORT_LIST, SHORT_CHARS = 2, 400
"""Number and length of the rejected samples that are shown without --verbose."""


def _escape(text: str) -> str:
    """Untrusted text, sanitized and escaped for rich markup."""
    return escape(sanitize(text))


def one_line(text: str) -> str:
    """Untrusted text on one line. Of several lines, such as a program, it shows the first."""
    first, *more = sanitize(text).strip().splitlines() or [""]
    return f"{first} ... ({count_noun(len(more) + 1, 'line')})" if more else first


_VERDICTS = {Verdict.RIGHT: "[green]right[/]", Verdict.WRONG: "[red]wrong[/]"}


@contextmanager
def search_progress(rollouts: int) -> Iterator[RolloutCallback]:
    """Shows the progress of a search as a line on stderr. Pass the value as `on_rollout`."""
    started = monotonic()
    with Live(Text("waiting for the model ..."), console=err, transient=True) as live:

        def update(tree: Tree) -> None:
            seconds = max(monotonic() - started, 1e-9)
            rate = tree.cost.sampled_tokens / seconds
            live.update(
                Text(
                    f"rollout {tree.rollouts}/{rollouts}   {count_noun(len(tree) - 1, 'step')}   "
                    f"{count_noun(len(tree.answer_nodes()), 'answer')}   "
                    f"{tree.cost.code_failures} failed programs   "
                    f"{rate:.0f} tokens/s   {seconds:.0f} s"
                )
            )

        yield update


@contextmanager
def progress_bar(description: str, total: int, done: int) -> Iterator[Progress]:
    """Shows a progress bar on stderr with counts and the remaining time."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=err, transient=True) as progress, progress_lines(progress):
        progress.add_task(description, total=total, completed=done, note="")
        yield progress


LINE_INTERVAL_S = 60.0
"""Interval between progress lines where stderr is not a terminal."""


@contextmanager
def progress_lines(progress: Progress) -> Iterator[None]:
    """Prints a line per task at intervals if stderr is not a terminal, where no bar is shown."""
    if progress.console.is_terminal:
        yield
        return
    ended = Event()

    def print_lines() -> None:
        while not ended.wait(LINE_INTERVAL_S):
            for task in progress.tasks:
                line = sanitize(progress_line(task))
                progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    thread = Thread(target=print_lines, daemon=True, name="progress-lines")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def progress_line(task: Task) -> str:
    """A task's counts, time, remaining time and note in one line."""
    parts = [f"{task.description}: {task.completed:,.0f}"]
    if task.total is not None:
        parts[0] += f"/{task.total:,.0f}"
    if task.elapsed is not None:
        parts.append(f"{duration(task.elapsed)} elapsed")
    if task.time_remaining is not None:
        parts.append(f"about {duration(task.time_remaining)} left")
    if note := task.fields.get("note"):
        parts.append(str(note))
    return ", ".join(parts)


def solution_view(solution: Solution, *, verbose: bool = False) -> RenderableType:
    """The chosen path step by step, the answer with its votes, and the cost.

    Without an answer, it has the longest path and two rejected samples instead; `verbose` adds all
    rejected samples and the prompt of the first.
    """
    parts: list[RenderableType] = []
    choice, tree = solution.choice, solution.tree
    end = choice.node
    if end is None and len(tree) > 1:
        end = max(range(len(tree.nodes)), key=lambda index: tree.nodes[index].depth)
    if end is not None:
        path = tree.trajectory(end)
        has_values = any(node.value_sum for node in tree)
        values = path.q if has_values else (None,) * len(path.q)
        nodes = [tree.nodes[index] for index in tree.path(end)]
        for number, (node, q) in enumerate(zip(nodes, values, strict=True), start=1):
            parts.extend(_step(number, node, q, _block_output(path.steps, number)))
        if choice.node is None and (failure := tree.nodes[end].failure):
            parts.append(
                Text(f"This is the longest path; it ended here: {one_line(failure)}.", "yellow")
            )
    if choice.answer is None:
        reasons = ", ".join(f"{n} {one_line(reason)}" for reason, n in tree.failures().items())
        parts.append(Text(f"No path ended with an answer ({reasons or 'no steps'}).", "yellow"))
    else:
        votes = ", ".join(
            f"{one_line(answer)} ({count:.3g})" for answer, count in choice.votes.items()
        )
        line = Text("Answer ", "bold")
        line.append(one_line(choice.answer), "bold")
        unit = "discriminator score" if tree.has_discriminator_votes else "votes"
        line.append(f"   {choice.share:.0%} of the {unit}: {votes}", "dim")
        if len(choice.votes) > 1:
            line.append(f"; entropy {choice.entropy:.2f}", "dim")
        parts.append(line)
    if verbose or choice.answer is None:
        parts.extend(_rejected(tree, verbose=verbose))
    if tree.stop_reason is not None:
        parts.append(Text(stop_line(tree), "dim"))
    parts.append(Text(cost_line(tree.cost, len(tree) - 1), "dim"))
    return Group(*parts)


def _rejected(tree: Tree, *, verbose: bool) -> Iterator[RenderableType]:
    """What the model wrote that is not a step, and why."""
    count = tree.cost.truncated + tree.cost.malformed
    samples = sorted(tree.rejected)
    shown = samples if verbose else samples[:SHORT_LIST]
    if not count:
        if verbose:
            yield Text("No sample was rejected.", "dim")
        return
    more = f"; the first {len(shown)}" if len(shown) < count else ""
    yield Text(f"{count_noun(count, 'rejected sample')}{more}:", "yellow")
    if verbose and shown:
        yield Text("The prompt of the first:", "dim")
        yield Padding(Text(sanitize(shown[0].prompt), "dim"), (0, 0, 0, 4))
    for sample in shown:
        yield Text(f"  after {count_noun(sample.depth, 'step')}: {sanitize(sample.reason)}", "dim")
        text = sanitize(sample.text) if verbose else sanitize(sample.text[:SHORT_CHARS])
        cut = " ..." if len(text) < len(sample.text) else ""
        yield Padding(Text((text.rstrip() or "(nothing)") + cut), (0, 0, 0, 4))
    if not verbose:
        yield Text("All of them, and the prompt: --verbose", "dim")


def _block_output(steps: tuple[Step, ...], number: int) -> list[Execution]:
    """The executions of the code block that a step ends; [] if it ends none."""
    if steps[number - 1].kind != "code":
        return []
    executions: list[Execution] = []
    for step in reversed(steps[:number]):
        if step.kind == "code" and step is not steps[number - 1]:
            break
        if step.execution is not None:
            executions.append(step.execution)
    return executions[::-1]


def _step(
    number: int, node: Node, q: float | None, block: list[Execution]
) -> Iterator[RenderableType]:
    """The lines of one step."""
    step = node.step
    assert step is not None
    head = Text(f"{number}. ", "bold cyan")
    head.append(sanitize(comment_text(step)) or "(no text)")
    if name := label(step):
        head.append(f"   {sanitize(name)}", "dim")
    if q is not None:
        head.append(f"   Q {q:+.2f}", "dim")
    scores = {} if node.score is None else {"score": node.score}
    for name, value in (scores | node.other_scores).items():
        head.append(f"   {sanitize(name)} {value:+.2f}", "dim")
    if step.reasoning:
        head.append(f"   after {len(step.reasoning.split())} words of reasoning", "dim")
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
    """The cost of a search in one line."""
    rate = cost.sampled_tokens / cost.seconds if cost.seconds else 0.0
    other = f", {cost.scorer_tokens} scorer tokens" if cost.scorer_tokens else ""
    if cost.discriminator_tokens:
        other = f" ({cost.discriminator_tokens} of them by the discriminator){other}"
    if cost.estimated_tokens:
        other = f" (estimated){other}"
    return (
        f"{count_noun(steps, 'step')} tried, {count_noun(cost.code_runs, 'program')} run "
        f"({cost.code_failures} failed), "
        f"{cost.calls} calls, {cost.sampled_tokens} tokens sampled{other}, {cost.seconds:.1f} s "
        f"({rate:.0f} tokens/s)"
    )


_STOP_REASONS = {
    "decided": "no remaining vote could change the answer",
    "confident": "the answer reached the required confidence",
}


def stop_line(tree: Tree) -> str:
    """Why a search stopped early, and the estimated saving."""
    reason = _STOP_REASONS.get(tree.stop_reason or "") or one_line(tree.stop_reason or "")
    return f"Stopped early: {reason}; about {tree.cost.saved_tokens} tokens saved"


def verdict_line(problem: Problem, answer: str | None, verdict: Verdict | None) -> str:
    """A finished problem in one line of rich markup."""
    verdict_text = (
        _VERDICTS.get(verdict, "[yellow]unknown[/]") if verdict is not None else "no reference"
    )
    expected = (
        f", expected {_escape(problem.reference_text)}"
        if problem.reference_text is not None
        else ""
    )
    given = "no answer" if answer is None else f"answer {escape(one_line(answer))}"
    return f"{_escape(problem.id)}: {given}{expected}: {verdict_text}"


_STATES = {
    "ok": "[green]ok[/]",
    "warning": "[yellow]warning[/]",
    "failed": "[red]failed[/]",
    "unclear": "[yellow]unclear[/]",
}


def check_line(check: SanityCheck) -> str:
    """A check of --check in one line of rich markup."""
    return f"{_STATES[check.state]}  {_escape(check.name)}: {_escape(check.message)}"


def summary_table(rows: Sequence[Summary]) -> Table:
    """The table of an evaluation. Costs are means per problem. Fits 80 columns."""
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
        "none: problems without an answer. The other columns are means per problem: model "
        "calls, prompt tokens, sampled tokens, programs run, programs failed, seconds."
    )
    for row in rows:
        if row.cost.saved_tokens:
            saved = row.cost.saved_tokens / max(row.problems, 1)
            table.caption += f"\n{row.strategy}: stopping early saved about {saved:.0f} tokens."
        if row.cost.discriminator_tokens:
            tokens = row.cost.discriminator_tokens / max(row.problems, 1)
            table.caption += f"\n{row.strategy}: {tokens:.0f} of the tokens by the discriminator."
        if row.cost.estimated_tokens:
            total = row.cost.prompt_tokens + row.cost.sampled_tokens
            share = row.cost.estimated_tokens / max(total, 1)
            table.caption += f"\n{row.strategy}: {share:.0%} of the tokens are estimated."
        if row.cost.unscorable:
            table.caption += (
                f"\n{row.strategy}: {count_noun(row.cost.unscorable, 'step')} could not be scored."
            )
        if row.cost.scorer_tokens:
            tokens = row.cost.scorer_tokens / max(row.problems, 1)
            table.caption += f"\n{row.strategy}: {tokens:.0f} additional tokens by the scorer."
    return table


def strategy_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The table of `rstar strategies`."""
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("name", "size", "scorer", "what it does"):
        table.add_column(name, justify="right" if name == "size" else "left")
    for row in rows:
        size = "" if row["default_size"] is None else str(row["default_size"])
        table.add_row(row["name"], size, row["scorer"], row["summary"])
    table.caption_justify = "left"
    table.caption = "@ sets the size: sc@8, mcts@16; mcts@16x4 is 4 runs. Your own: module:SPEC"
    return table


def benchmark_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The table of `rstar benchmarks`."""
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("name", "size", "answer", "licence", "source"):
        table.add_column(name, justify="right" if name == "size" else "left")
    for row in rows:
        hub = row["hub"]
        source = "local" if row["file"] else f"hf:{hub['name']}" if hub else "manual"
        table.add_row(row["name"], str(row["size"]), row["answer"], row["licence"], source)
    table.caption_justify = "left"
    table.caption = "local: found in --data or RSTAR_DATA. Known problems: rstar benchmarks NAME"
    return table
