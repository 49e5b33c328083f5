"""`rstar prepare` and `rstar synthesize`: a set of problems without duplicates and without what
evaluation sets ask."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rstar_math.cli.options import (
    AsJson,
    Cluster,
    ConfigSource,
    Model,
    Settings,
    configure,
    print_json,
    run,
)
from rstar_math.text import sanitize

if TYPE_CHECKING:
    from rich.table import Table

    from rstar_math.evolution.synthesis import Synthesis, SynthesisJob
    from rstar_math.problems.filtering import Decontaminated, Deduplicated
    from rstar_math.problems.synthesis import SynthesisConfig
    from rstar_math.types import Problem

_EXAMPLES = 3
"""Examples shown of each kind."""
_CHARS = 160
"""Characters of a question shown."""


def prepare(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="FILE.jsonl[.gz], hf:NAME:CONFIG@SPLIT or gym:NAME?size=500&seed=0. Columns: "
            "?question=KEY&answer=KEY.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="JSONL file to write; .gz is gzipped.")],
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE", help="Leave out what this evaluation set asks. Repeatable."),
    ] = None,
    dedup: Annotated[bool, typer.Option("--dedup/--no-dedup", help="Leave out duplicates.")] = True,
    exclude_templates: Annotated[
        bool,
        typer.Option(
            "--exclude-templates",
            help="Leave out an evaluation's questions with other numbers too.",
        ),
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Write the first N that are left.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Draw the N by this seed instead of taking the first."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Gather problems, leave out duplicates and what evaluation sets ask, write one file.

    Says what was left out, because of what, with examples.
    """
    from rstar_math.cli import display
    from rstar_math.errors import InputError
    from rstar_math.problems.jsonl import sample, write_problems

    if seed is not None and limit is None:
        raise InputError("--seed draws as many problems as --limit says; give --limit too.")
    work = _gathered(sources, dedup, exclude, exclude_templates)
    work.kept = work.kept[:limit] if seed is None else sample(work.kept, limit, seed)
    write_problems(out, work.kept)
    if as_json:
        print_json({"out": str(out), **work.as_json()})
        return
    display.out.print(work.table())
    for line in work.examples():
        display.out.print(sanitize(line), markup=False)
    typer.echo(f"{len(work.kept)} problems are in {out}.")


@dataclass(slots=True)
class _Work:
    """What was read and what became of it."""

    read: list["Problem"]
    kept: list["Problem"]
    single: "Deduplicated | None" = None
    clean: "Decontaminated | None" = None

    def counts(self) -> dict[str, int]:
        """Problems read, left out by reason, and written; they add up."""
        rows = {"read": len(self.read)}
        if self.single is not None:
            kinds = Counter(duplicate.kind for duplicate in self.single.removed)
            rows["the same as another"] = kinds["same"]
            rows["nearly the same as another"] = kinds["near"]
            rows["the same with other answers"] = sum(map(len, self.single.conflicts))
        if self.clean is not None:
            left = {match.problem.id for match in self.clean.removed}
            rows["in an evaluation set"] = len(left)
        rows["beyond the limit"] = rows["read"] - sum(list(rows.values())[1:]) - len(self.kept)
        return {**rows, "written": len(self.kept)}

    def as_json(self) -> dict[str, Any]:
        """The counts, and everything that was left out with its witness."""
        report: dict[str, Any] = {"counts": self.counts()}
        report["sources"] = dict(Counter(problem.source for problem in self.read))
        if self.single is not None:
            report["duplicates"] = [
                {"id": d.problem.id, "kept": d.witness.id, "kind": d.kind}
                for d in self.single.removed
            ]
            report["conflicts"] = [
                [{"id": p.id, "answer": p.reference} for p in group]
                for group in self.single.conflicts
            ]
            report["twins"] = [[p.id for p in family] for family in self.single.twins]
        if self.clean is not None:
            report["evaluations"] = self.clean.counts()
            report["removed"], report["templates"] = (
                [
                    {
                        "id": match.problem.id,
                        "evaluation": match.evaluation,
                        "item": match.item.id,
                        "kind": match.kind,
                        "ratio": round(match.ratio, 3),
                        "overlap": match.overlap,
                    }
                    for match in matches
                ]
                for matches in (self.clean.removed, self.clean.templates)
            )
        return report

    def table(self) -> "Table":
        """The counts for a person."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table("problems", "", box=SIMPLE_HEAD, header_style="bold")
        table.columns[1].justify = "right"
        for name, count in self.counts().items():
            if count or name in ("read", "written"):
                table.add_row(name, str(count))
        for name, row in (self.clean.counts() if self.clean else {}).items():
            named = {kind: count for kind, count in row.items() if count}
            if others := named.pop("template", 0):
                named["with other numbers"] = others
            kinds = ", ".join(f"{count} {kind}" for kind, count in named.items())
            table.add_row(f"  {name}", kinds)
        if self.single is not None and self.single.twins:
            twins = self.single.twins
            table.add_row(
                "kept, alike but for their numbers", f"{sum(map(len, twins))} of {len(twins)} kinds"
            )
        return table

    def examples(self) -> list[str]:
        """A few problems that were left out, and because of what."""
        lines: list[str] = []
        for group in (self.single.conflicts if self.single else [])[:_EXAMPLES]:
            answers = ", ".join(f"{p.id}: {p.reference}" for p in group)
            lines.append(f"answers differ ({answers}): {_short(group[0])}")
        shown: Counter[str] = Counter()
        for duplicate in self.single.removed if self.single else []:
            shown[duplicate.kind] += 1
            if shown[duplicate.kind] <= _EXAMPLES:
                lines.append(
                    f"{duplicate.kind}: {duplicate.problem.id} as {duplicate.witness.id}: "
                    f"{_short(duplicate.problem)}"
                )
        for match in [*self.clean.removed, *self.clean.templates] if self.clean else []:
            shown[match.evaluation + match.kind] += 1
            if shown[match.evaluation + match.kind] <= _EXAMPLES:
                lines.append(
                    f"{match.evaluation}, {match.kind} ({match.ratio:.0%}): {match.problem.id}: "
                    f"{_short(match.problem)}\n"
                    f"    {match.item.id}: {_short(match.item)}\n    both: {match.overlap[:_CHARS]}"
                )
        return lines


def _gathered(
    sources: list[str], dedup: bool, exclude: list[str] | None, exclude_templates: bool
) -> _Work:
    """What is left of the sources' problems. Raises `InputError` where nothing is."""
    from rstar_math.cli import display
    from rstar_math.errors import InputError
    from rstar_math.problems.sources import read_sources

    with display.err.status("reading ...") as status:
        found = read_sources(sources)
        work = _Work(found, found)
        if dedup:
            status.update(f"looking for duplicates among {len(found)} problems ...")
            work.single = _deduplicated(work.kept)
            work.kept = work.single.kept
        if exclude:
            status.update(f"holding {len(work.kept)} problems against evaluation sets ...")
            work.clean = _decontaminated(work.kept, exclude, exclude_templates)
            work.kept = work.clean.kept
    if not work.kept:
        raise InputError(f"Of {len(found)} problems none is left; give other sources.")
    return work


def _short(problem: "Problem") -> str:
    """The beginning of a question on one line."""
    text = " ".join(problem.question.text.split())
    return text if len(text) <= _CHARS else f"{text[: _CHARS - 3]}..."


def _deduplicated(found: list["Problem"]) -> "Deduplicated":
    from rstar_math.grading.grader import grade
    from rstar_math.problems.filtering import deduplicate
    from rstar_math.types import Verdict

    return deduplicate(found, same_answer=lambda a, b: grade(a, b).verdict is Verdict.RIGHT)


def _decontaminated(
    found: list["Problem"], exclude: list[str], exclude_templates: bool
) -> "Decontaminated":
    from rstar_math.problems.filtering import EvaluationIndex, OverlapRule, decontaminate
    from rstar_math.problems.sources import parse_source, read_source

    sets: dict[str, list[Problem]] = {}
    for text in exclude:
        title = parse_source(text).title
        sets[text if title in sets else title] = read_source(text)
    return decontaminate(found, EvaluationIndex(sets, OverlapRule(templates=exclude_templates)))


_DRAFT_EXAMPLES = 3
"""Examples shown of each reason."""
Seeds = Annotated[
    list[str],
    typer.Argument(metavar="SOURCE...", help="Seed problems, as for rstar prepare."),
]
Out = Annotated[Path, typer.Option(metavar="FILE", help="JSONL file to write; .gz is gzipped.")]
Folder = Annotated[
    Path, typer.Option("--run", metavar="RUN", help="Folder to write drafts to, or to go on with.")
]
Requests = Annotated[
    int, typer.Option(min=1, metavar="N", help="Requests for new problems; more may be added.")
]
Without = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SOURCE", help="Leave out drafts that this evaluation set asks. Repeatable."
    ),
]
Templates = Annotated[
    bool,
    typer.Option(
        "--exclude-templates", help="Leave out an evaluation's questions with other numbers too."
    ),
]
Each = Annotated[int, typer.Option(min=1, help="New problems sampled with a request.")]
Shots = Annotated[int, typer.Option(min=1, help="Seed problems shown in a request.")]
Solutions = Annotated[
    int, typer.Option(min=1, help="Independent solutions of each new problem (paper: 10).")
]
Agreeing = Annotated[
    int, typer.Option(min=1, help="Solutions that must agree on the answer (paper: 3).")
]
Temperature = Annotated[
    float, typer.Option(min=0, max=5, help="Sampling temperature of the new problems.")
]
MaxTokens = Annotated[int, typer.Option(min=1, help="Most tokens of a new problem.")]
Seed = Annotated[int, typer.Option(help="Seed of the drawing and of the sampling.")]


def synthesize(
    sources: Seeds,
    out: Out,
    run_folder: Folder,
    requests: Requests,
    model: Model = None,
    exclude: Without = None,
    exclude_templates: Templates = False,
    per_request: Each = 4,
    shots: Shots = 3,
    solutions: Solutions = 10,
    min_agreement: Agreeing = 3,
    temperature: Temperature = 1.0,
    max_tokens: MaxTokens = 256,
    seed: Seed = 0,
    cluster: Cluster = None,
    config: ConfigSource = None,
    set_: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Have a model write new problems from seed problems and solve each several times; keep those
    on whose answer enough solutions agree.

    Can be stopped or killed at any moment: the same command goes on. Says what was left out, and
    why, with examples.
    """
    wanted = _wanted(
        requests=requests,
        per_request=per_request,
        shots=shots,
        solutions=solutions,
        min_agreement=min_agreement,
        temperature=temperature,
        max_tokens=max_tokens,
        seed=seed,
    )
    settings = configure(config, set_, model)
    order = _order(wanted, settings, (sources, exclude or [], exclude_templates), cluster)
    found = _work(order, run_folder, out)
    if as_json:
        print_json({"run": str(run_folder), "out": str(out), **found.as_json()})
        return
    _show(found)
    typer.echo(f"{len(found.kept)} problems are in {out}.")


def _work(order: "SynthesisJob", folder: Path, out: Path) -> "Synthesis":
    """Do what is left, and write the file. Raises `InputError` where nothing is kept."""
    from rstar_math.cli import progress
    from rstar_math.errors import InputError
    from rstar_math.evolution.synthesis import SynthesisListener
    from rstar_math.evolution.synthesis import synthesize as work

    with progress.watch_rounds() as watch:
        found = run(work(order, folder, SynthesisListener(watch)), kept=True, needs=order.config)
    if not found.kept:
        reasons = [f"{n} {name}" for name, n in found.counts.items() if name != "kept" and n]
        raise InputError(
            f"No draft was kept ({', '.join(reasons)}); give other seeds, a stronger model or "
            "more --requests."
        )
    found.write(out)
    return found


def _order(
    wanted: "SynthesisConfig",
    config: Any,
    asked: tuple[list[str], list[str], bool],
    cluster: str | None,
) -> "SynthesisJob":
    """What the command line asks for; its problems are read."""
    from rstar_math.cli import display
    from rstar_math.evolution.synthesis import SynthesisJob, majority_config
    from rstar_math.problems.filtering import OverlapRule
    from rstar_math.problems.sources import parse_source, read_source, read_sources
    from rstar_math.problems.synthesis import KnownProblems, require_seeds
    from rstar_math.runs.results import run_conditions

    sources, exclude, exclude_templates = asked
    with display.err.status("reading ..."):
        seeds = read_sources(sources)
        require_seeds(seeds, wanted)
        sets = {}
        for text in exclude:
            title = parse_source(text).title
            sets[text if title in sets else title] = read_source(text)
    solver = majority_config(config)
    return SynthesisJob(
        options=wanted,
        config=solver,
        seeds=seeds,
        known=(
            KnownProblems("in an evaluation set", sets, OverlapRule(templates=exclude_templates)),
            KnownProblems("a seed problem", {"seeds": seeds}),
        ),
        digests={"model.name": run_conditions(solver, guided=False)["model.name"]},
        cluster=cluster,
    )


def _wanted(**options: Any) -> "SynthesisConfig":
    """What the options ask for. Raises `ConfigError`."""
    from pydantic import ValidationError

    from rstar_math.config.loading import explain
    from rstar_math.errors import ConfigError
    from rstar_math.problems.synthesis import SynthesisConfig

    try:
        return SynthesisConfig(**options)
    except ValidationError as error:
        raise ConfigError(f"rstar synthesize: {explain(error).message}.") from error


def _show(found: "Synthesis") -> None:
    """The counts and some examples, for a person."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from rstar_math.cli import display

    table = Table("drafts", "", box=SIMPLE_HEAD, header_style="bold")
    table.columns[1].justify = "right"
    for name, count in found.counts.items():
        table.add_row(name, str(count))
    display.out.print(table)
    shown: dict[str, int] = {}
    for one in found.examples:
        shown[one["why"]] = shown.get(one["why"], 0) + 1
        if shown[one["why"]] <= _DRAFT_EXAMPLES:
            because = f" ({one['because']})" if one["because"] else ""
            display.out.print(sanitize(f"{one['why']}: {one['draft']}{because}"), markup=False)
