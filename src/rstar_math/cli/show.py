"""`rstar show`: the results of a run in the terminal."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rstar_math.cli.options import AsJson, Verbose, print_json
from rstar_math.errors import InputError
from rstar_math.text import count_noun, sanitize

if TYPE_CHECKING:
    from rstar_math.runs.store import RunStore
    from rstar_math.types import Problem

MAX_QUESTION_CHARS = 60
MAX_ANSWER_CHARS = 16


def show(
    run_file: Annotated[Path, typer.Argument(metavar="RUN", help="A run file.")],
    problem: Annotated[
        str | None,
        typer.Argument(
            metavar="PROBLEM",
            help="Id of a problem, or its number in the list. Without it, all problems are listed.",
        ),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(metavar="STRATEGY", help="Show only this strategy.", show_default="all"),
    ] = None,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> None:
    """Show the problems of a run, or one problem: the chosen path, the votes, rejected samples."""
    from rstar_math.runs.store import RunStore

    with RunStore.read(run_file) as store:
        names = store.strategies()
        if strategy is not None and strategy not in names:
            raise InputError(
                f"{run_file} has no results of {strategy}; it has {', '.join(names) or 'none'}."
            )
        names = names if strategy is None else [strategy]
        problems = store.problems()
        if problem is None:
            _print_list(store, names, problems, as_json)
        else:
            found = _find(problems, problem, run_file)
            _print_problem(store, names, found, verbose=verbose, as_json=as_json)


def _find(problems: "list[Problem]", name: str, run_file: Path) -> "Problem":
    """The problem with an id or a number from 1. Raises `InputError`."""
    for problem in problems:
        if problem.id == name:
            return problem
    if name.isdecimal() and 1 <= int(name) <= len(problems):
        return problems[int(name) - 1]
    raise InputError(
        f"{run_file} has no problem {name}; rstar show {run_file} lists its "
        f"{count_noun(len(problems), 'problem')}."
    )


def _print_list(
    store: "RunStore", names: list[str], problems: "list[Problem]", as_json: bool
) -> None:
    """Print one line per problem: its id and the answer of each strategy."""
    results = {(r.problem, name): r for name in names for r in store.results(name)}
    if as_json:
        rows = [
            {
                "problem": problem.id,
                "question": problem.question.text,
                "reference": problem.reference_text,
                "results": {
                    name: {
                        "answer": result.choice.answer,
                        "verdict": None if result.verdict is None else result.verdict.value,
                        "sampled_tokens": result.cost.sampled_tokens,
                    }
                    for name in names
                    if (result := results.get((problem.id, name))) is not None
                },
            }
            for problem in problems
        ]
        print_json({"problems": rows})
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from rstar_math.cli import display

    table: Table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", justify="right")
    for title in ("problem", "question", "reference", *map(display.one_line, names)):
        table.add_column(Text(title), overflow="fold")
    styles = {"right": "green", "wrong": "red"}
    for number, problem in enumerate(problems, 1):
        cells = [
            str(number),
            display.one_line(problem.id),
            _short(problem.question.text, MAX_QUESTION_CHARS),
            _short(problem.reference_text or "-", MAX_ANSWER_CHARS),
        ]
        row = [Text(cell) for cell in cells]
        for name in names:
            result = results.get((problem.id, name))
            if result is None:
                row.append(Text())
                continue
            verdict = "" if result.verdict is None else result.verdict.value
            answer = result.choice.answer
            said = (
                "no answer" if answer is None else f"{_short(answer, MAX_ANSWER_CHARS)} {verdict}"
            )
            row.append(Text(said.rstrip(), styles.get(verdict, "")))
        table.add_row(*row)
    display.out.print(table)
    display.out.print(Text(f"One problem: rstar show {store.path} NUMBER", "dim"))


def _short(text: str, length: int) -> str:
    """A text on one line, with at most `length` characters."""
    line = " ".join(sanitize(text).split())
    return line if len(line) <= length else f"{line[: length - 3]}..."


def _print_problem(
    store: "RunStore", names: list[str], problem: "Problem", *, verbose: bool, as_json: bool
) -> None:
    """Print one problem as each strategy solved it."""
    from rich.text import Text

    from rstar_math.cli import display
    from rstar_math.search.records import to_record
    from rstar_math.solver.solution import Solution

    shown = []
    for name in names:
        result = next((r for r in store.results(name) if r.problem == problem.id), None)
        if result is None:
            continue
        tree = store.tree(problem.id, name)
        if as_json:
            shown.append({"strategy": name, "tree": to_record(tree)})
            continue
        tree.cost = result.cost
        display.out.rule(Text(display.one_line(name), "bold"), align="left", style="dim")
        display.out.print(
            display.verdict_line(problem, result.choice.answer, result.verdict), highlight=False
        )
        solution = Solution(problem.question, tree, result.choice)
        display.out.print(display.solution_view(solution, verbose=verbose))
    if as_json:
        print_json({"problem": problem.id, "question": problem.question.text, "solutions": shown})
