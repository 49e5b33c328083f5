"""`rstar problems check` and `rstar problems tests`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rstar_math.cli.options import AsJson, print_json, run
from rstar_math.text import sanitize

if TYPE_CHECKING:
    from rstar_math.problems.inspection import Inspection
    from rstar_math.types import Problem
    from rstar_math.verification.judges import Judges

app = typer.Typer(no_args_is_help=True, help="Look at problem sets, and add tests to them.")
_MAX_EXAMPLES = 3
"""Maximum number of examples per fact."""


@app.command("check")
def check(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Problem files or other sources, as for prepare."),
    ],
    known: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE", help="A set with which the problems may overlap. Repeatable."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what problem files hold: kinds, first problems, missing answers, duplicates, overlap.

    Nothing is changed; rstar prepare removes duplicates and overlap.
    """
    from rstar_math.grading.grader import grade
    from rstar_math.problems.inspection import inspect_problems
    from rstar_math.problems.sources import read_sources
    from rstar_math.types import Verdict

    problems = read_sources(sources)
    sets = {source: read_sources([source]) for source in known or ()}
    found = inspect_problems(problems, sets, lambda a, b: grade(a, b).verdict is Verdict.RIGHT)
    if as_json:
        print_json({"sources": sources, **found.as_json()})
        return
    for line in _lines(found):
        typer.echo(sanitize(line))


def _lines(found: "Inspection") -> list[str]:
    """The facts in words."""
    from rstar_math.problems.inspection import FEW_TESTS, describe, kinds_in_words

    problems = [problem for group in found.kinds.values() for problem in group]
    lines = [f"{len(problems)} problems: {kinds_in_words(problems)}."]
    lines += [f"First {kind} problem: {describe(group[0])}" for kind, group in found.kinds.items()]
    facts = [
        ("without an answer, so they cannot be graded", found.without_answer),
        (f"with fewer than {FEW_TESTS} tests, which wrong programs may pass", found.few_tests),
        ("without a public test, so a search cannot value programs", found.without_examples),
    ]
    lines += [f"{len(group)} {fact}{_ids(group)}." for fact, group in facts if group]
    duplicates = found.duplicates.removed
    pairs = ", ".join(f"{d.problem.id} = {d.witness.id}" for d in duplicates[:_MAX_EXAMPLES])
    lines.append(f"{len(duplicates)} duplicates{f': {pairs}' if pairs else ''}.")
    if found.duplicates.conflicts:
        first = _ids(found.duplicates.conflicts[0])
        lines.append(f"{len(found.duplicates.conflicts)} groups contradict each other{first}.")
    if found.overlap is not None:
        matches = found.overlap.removed
        first = ", ".join(f"{m.problem.id} in {m.evaluation}" for m in matches[:_MAX_EXAMPLES])
        lines.append(f"{len(matches)} overlap with a known set{f': {first}' if first else ''}.")
    return lines


def _ids(problems: Sequence["Problem"]) -> str:
    names = ", ".join(problem.id for problem in problems[:_MAX_EXAMPLES])
    return f": {names}{', ...' if len(problems) > _MAX_EXAMPLES else ''}"


@app.command("tests")
def add_tests(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL file of code problems.")],
    run_file: Annotated[
        Path, typer.Option("--run", metavar="RUN", help="Run with programs for these problems.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Output JSONL file.")],
    inputs: Annotated[
        int, typer.Option(min=1, max=1000, metavar="N", help="Generated inputs per problem.")
    ] = 20,
    min_agreement: Annotated[
        int,
        typer.Option(min=2, metavar="N", help="Programs that must agree on all outputs."),
    ] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the inputs.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Add hidden tests on which the programs of a run agree.

    Make the run with, for example, rstar search FILE --strategy sc@16 --run RUN. Inputs are the
    public ones with changed values. Problems without agreement are left unchanged.
    """
    from rstar_math.problems.jsonl import read_problems, write_problems

    problems = read_problems(file)
    options = (inputs, min_agreement, seed)
    written = run(_with_tests(problems, run_file, options), is_saved=False)
    write_problems(out, written)
    changed = [new.id for old, new in zip(problems, written, strict=True) if old != new]
    if as_json:
        print_json({"out": str(out), "problems": len(written), "with_new_tests": changed})
    else:
        typer.echo(f"{len(changed)} of {len(written)} problems have new tests; they are in {out}.")


async def _with_tests(
    problems: Sequence["Problem"], run_file: Path, options: tuple[int, int, int]
) -> list["Problem"]:
    """The problems, with new tests where the programs of a run agree."""
    from rstar_math.runs.store import RunStore
    from rstar_math.verification.judges import Judges

    with RunStore.read(run_file) as store:
        found: dict[str, list[str]] = {}
        for strategy in store.strategies():
            for name in store.done(strategy):
                nodes = store.tree(name, strategy).nodes
                answers = (node.step.answer for node in nodes if node.step and node.answered)
                found.setdefault(name, []).extend(answer for answer in answers if answer)
    async with Judges() as judges:
        return [await _tested(judges, p, found.get(p.id, []), options) for p in problems]


async def _tested(
    judges: "Judges", problem: "Problem", programs: Sequence[str], options: tuple[int, int, int]
) -> "Problem":
    """A code problem with new tests, if the programs agree; else the problem unchanged."""
    from rstar_math.tasks import CodeTask, HiddenTests
    from rstar_math.verification.agreement import generate_inputs, verified_tests

    count, min_agreement, seed = options
    task = problem.question.task
    if not isinstance(task, CodeTask) or not programs:
        return problem
    inputs = [*task.inputs, *generate_inputs(task, seed=seed, count=count)]
    distinct = list(dict.fromkeys(programs))
    new = await verified_tests(judges.sandbox, task, distinct, inputs, min_agreement=min_agreement)
    old = problem.reference.tests if isinstance(problem.reference, HiddenTests) else ()
    tests = tuple(dict.fromkeys([*old, *new]))
    return replace(problem, reference=HiddenTests(tests)) if len(tests) > len(old) else problem
