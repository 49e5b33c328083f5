"""`rstar prepare` and `rstar synthesize`: problem sets without duplicates and without problems of
evaluation sets."""

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
    TrustConfig,
    configure,
    print_json,
    run,
)
from rstar_math.text import count_noun, sanitize

if TYPE_CHECKING:
    from rich.table import Table

    from rstar_math.evolution.synthesis import Synthesis, SynthesisJob
    from rstar_math.problems.filtering import Decontaminated, Deduplicated
    from rstar_math.problems.synthesis import SynthesisConfig
    from rstar_math.types import Problem

_MAX_EXAMPLES = 3
"""Maximum number of examples per kind or reason."""
_QUESTION_CHARS = 160
"""Maximum number of characters of a question in an example."""


def prepare(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Problem sources: FILE.jsonl[.gz], hf:NAME:CONFIG@SPLIT or "
            "gym:NAME?size=500&seed=0. Add ?question=KEY&answer=KEY to name the columns.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Output JSONL file; a name in .gz is compressed.")
    ],
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE", help="Drop problems of this evaluation set. Repeatable."),
    ] = None,
    dedup: Annotated[bool, typer.Option("--dedup/--no-dedup", help="Drop duplicates.")] = True,
    exclude_templates: Annotated[
        bool,
        typer.Option(
            "--exclude-templates",
            help="Also drop problems that differ from an evaluation set only in numbers.",
        ),
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Write at most N problems.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="SEED",
            help="Sample the N problems with this seed instead of taking the first N.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Merge problem sources into one file, without duplicates and evaluation problems.

    Reports what was dropped and why, with examples.
    """
    from rstar_math.cli import display
    from rstar_math.errors import InputError
    from rstar_math.problems.jsonl import sample, write_problems

    if seed is not None and limit is None:
        raise InputError(
            "--seed requires --limit, the number of problems to sample; add --limit N."
        )
    prepared = _prepare(sources, dedup, exclude, exclude_templates)
    kept = prepared.kept
    prepared.kept = kept[:limit] if seed is None else sample(kept, limit, seed)
    write_problems(out, prepared.kept)
    if as_json:
        print_json({"out": str(out), **prepared.as_json()})
        return
    display.out.print(prepared.table())
    for line in prepared.examples():
        display.out.print(sanitize(line), markup=False)
    typer.echo(f"{out} has {count_noun(len(prepared.kept), 'problem')}.")


@dataclass(slots=True)
class _Prepared:
    """The problems that were read, kept and dropped."""

    read: list["Problem"]
    kept: list["Problem"]
    deduplicated: "Deduplicated | None" = None
    decontaminated: "Decontaminated | None" = None

    def counts(self) -> dict[str, int]:
        """Number of problems read, dropped by reason, and written. They add up."""
        rows = {"read": len(self.read)}
        if self.deduplicated is not None:
            kinds = Counter(duplicate.kind for duplicate in self.deduplicated.removed)
            rows["the same as another"] = kinds["same"]
            rows["nearly the same as another"] = kinds["near"]
            rows["the same with other answers"] = sum(map(len, self.deduplicated.conflicts))
        if self.decontaminated is not None:
            dropped = {match.problem.id for match in self.decontaminated.removed}
            rows["in an evaluation set"] = len(dropped)
        rows["beyond the limit"] = rows["read"] - sum(list(rows.values())[1:]) - len(self.kept)
        return {**rows, "written": len(self.kept)}

    def as_json(self) -> dict[str, Any]:
        """The counts, and all dropped problems with the problem that they duplicate."""
        report: dict[str, Any] = {"counts": self.counts()}
        report["sources"] = dict(Counter(problem.source for problem in self.read))
        if self.deduplicated is not None:
            report["duplicates"] = [
                {"id": d.problem.id, "kept": d.witness.id, "kind": d.kind}
                for d in self.deduplicated.removed
            ]
            report["conflicts"] = [
                [{"id": p.id, "answer": p.reference_text} for p in group]
                for group in self.deduplicated.conflicts
            ]
            report["twins"] = [[p.id for p in family] for family in self.deduplicated.twins]
        if self.decontaminated is not None:
            report["evaluations"] = self.decontaminated.counts()
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
                for matches in (self.decontaminated.removed, self.decontaminated.templates)
            )
        return report

    def table(self) -> "Table":
        """The counts as a table."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table("problems", "", box=SIMPLE_HEAD, header_style="bold")
        table.columns[1].justify = "right"
        for name, count in self.counts().items():
            if count or name in ("read", "written"):
                table.add_row(name, str(count))
        for name, row in (self.decontaminated.counts() if self.decontaminated else {}).items():
            matches = {kind: count for kind, count in row.items() if count}
            if templates := matches.pop("template", 0):
                matches["with other numbers"] = templates
            kinds = ", ".join(f"{count} {kind}" for kind, count in matches.items())
            table.add_row(f"  {name}", kinds)
        if self.deduplicated is not None and self.deduplicated.twins:
            twins = self.deduplicated.twins
            table.add_row(
                "kept, differ only in numbers", f"{sum(map(len, twins))} in {len(twins)} groups"
            )
        return table

    def examples(self) -> list[str]:
        """A few dropped problems with the reason."""
        lines: list[str] = []
        for group in (self.deduplicated.conflicts if self.deduplicated else [])[:_MAX_EXAMPLES]:
            answers = ", ".join(f"{p.id}: {p.reference_text}" for p in group)
            lines.append(f"answers differ ({answers}): {_short_question(group[0])}")
        shown: Counter[str] = Counter()
        for duplicate in self.deduplicated.removed if self.deduplicated else []:
            shown[duplicate.kind] += 1
            if shown[duplicate.kind] <= _MAX_EXAMPLES:
                lines.append(
                    f"{duplicate.kind}: {duplicate.problem.id} like {duplicate.witness.id}: "
                    f"{_short_question(duplicate.problem)}"
                )
        for match in (
            [*self.decontaminated.removed, *self.decontaminated.templates]
            if self.decontaminated
            else []
        ):
            shown[match.evaluation + match.kind] += 1
            if shown[match.evaluation + match.kind] <= _MAX_EXAMPLES:
                lines.append(
                    f"{match.evaluation}, {match.kind} ({match.ratio:.0%}): {match.problem.id}: "
                    f"{_short_question(match.problem)}\n"
                    f"    {match.item.id}: {_short_question(match.item)}\n"
                    f"    both: {match.overlap[:_QUESTION_CHARS]}"
                )
        return lines


def _prepare(
    sources: list[str], dedup: bool, exclude: list[str] | None, exclude_templates: bool
) -> _Prepared:
    """The prepared problems of the sources. Raises `InputError` if none is left."""
    from rstar_math.cli import display
    from rstar_math.errors import InputError
    from rstar_math.problems.sources import read_sources

    with display.err.status("reading ...") as status:
        problems = read_sources(sources)
        prepared = _Prepared(problems, problems)
        if dedup:
            status.update(f"finding duplicates among {len(problems)} problems ...")
            prepared.deduplicated = _deduplicate(prepared.kept)
            prepared.kept = prepared.deduplicated.kept
        if exclude:
            status.update(f"comparing {len(prepared.kept)} problems with evaluation sets ...")
            prepared.decontaminated = _decontaminate(prepared.kept, exclude, exclude_templates)
            prepared.kept = prepared.decontaminated.kept
    if not prepared.kept:
        raise InputError(f"All {len(problems)} problems were dropped; use other sources.")
    return prepared


def _short_question(problem: "Problem") -> str:
    """The beginning of a question on one line."""
    text = " ".join(problem.question.text.split())
    return text if len(text) <= _QUESTION_CHARS else f"{text[: _QUESTION_CHARS - 3]}..."


def _deduplicate(problems: list["Problem"]) -> "Deduplicated":
    from rstar_math.grading.grader import grade
    from rstar_math.problems.filtering import deduplicate
    from rstar_math.types import Verdict

    return deduplicate(problems, same_answer=lambda a, b: grade(a, b).verdict is Verdict.RIGHT)


def _decontaminate(
    problems: list["Problem"], exclude: list[str], exclude_templates: bool
) -> "Decontaminated":
    from rstar_math.problems.filtering import EvaluationIndex, OverlapRule, decontaminate

    sets = _read_evaluations(exclude)
    return decontaminate(problems, EvaluationIndex(sets, OverlapRule(templates=exclude_templates)))


def _read_evaluations(sources: list[str]) -> "dict[str, list[Problem]]":
    """The problems of evaluation sets by unique title."""
    from rstar_math.problems.sources import parse_source, read_source

    sets: dict[str, list[Problem]] = {}
    for text in sources:
        title = parse_source(text).title
        sets[text if title in sets else title] = read_source(text)
    return sets


Seeds = Annotated[
    list[str],
    typer.Argument(metavar="SOURCE...", help="Seed problems; sources as for rstar prepare."),
]
Out = Annotated[
    Path, typer.Option(metavar="FILE", help="Output JSONL file; a name in .gz is compressed.")
]
Folder = Annotated[
    Path, typer.Option("--run", metavar="RUN", help="Folder for the drafts; resumes if it exists.")
]
Requests = Annotated[
    int,
    typer.Option(
        min=1, metavar="N", help="Number of requests for new problems; it can be raised later."
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(metavar="SOURCE", help="Drop drafts that match this evaluation set. Repeatable."),
]
ExcludeTemplates = Annotated[
    bool,
    typer.Option(
        "--exclude-templates",
        help="Also drop problems that differ from an evaluation set only in numbers.",
    ),
]
PerRequest = Annotated[int, typer.Option(min=1, metavar="N", help="New problems per request.")]
Shots = Annotated[int, typer.Option(min=1, metavar="N", help="Seed problems per request.")]
Solutions = Annotated[
    int, typer.Option(min=1, metavar="N", help="Independent solutions per new problem (paper: 10).")
]
MinAgreement = Annotated[
    int,
    typer.Option(min=1, metavar="N", help="Solutions that must agree on the answer (paper: 3)."),
]
Temperature = Annotated[
    float, typer.Option(min=0, max=5, metavar="T", help="Sampling temperature of the new problems.")
]
MaxTokens = Annotated[
    int, typer.Option(min=1, metavar="N", help="Maximum tokens of a new problem.")
]
Seed = Annotated[
    int, typer.Option(metavar="SEED", help="Random seed of seed problem choice and sampling.")
]


def synthesize(
    sources: Seeds,
    out: Out,
    run_folder: Folder,
    requests: Requests,
    model: Model = None,
    exclude: Exclude = None,
    exclude_templates: ExcludeTemplates = False,
    per_request: PerRequest = 4,
    shots: Shots = 3,
    solutions: Solutions = 10,
    min_agreement: MinAgreement = 3,
    temperature: Temperature = 1.0,
    max_tokens: MaxTokens = 256,
    seed: Seed = 0,
    cluster: Cluster = None,
    config: ConfigSource = None,
    trust_config: TrustConfig = False,
    set_: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Generate new problems from seed problems with a model, and keep those with a reliable answer.

    Each new problem is solved several times; it is kept if enough solutions agree. The command can
    be interrupted or killed at any time; run it again to resume. Reports what was dropped and why,
    with examples.
    """
    options = _synthesis_config(
        requests=requests,
        per_request=per_request,
        shots=shots,
        solutions=solutions,
        min_agreement=min_agreement,
        temperature=temperature,
        max_tokens=max_tokens,
        seed=seed,
    )
    settings = configure(config, set_, model, trusted=trust_config)
    job = _synthesis_job(
        options, settings, sources, (exclude or [], exclude_templates), cluster=cluster
    )
    result = _run_synthesis(job, run_folder, out)
    if as_json:
        print_json({"run": str(run_folder), "out": str(out), **result.as_json()})
        return
    _print_synthesis(result)
    typer.echo(f"{out} has {count_noun(len(result.kept), 'problem')}.")


def _run_synthesis(job: "SynthesisJob", folder: Path, out: Path) -> "Synthesis":
    """Run or resume the job and write the file. Raises `InputError` if no problem is kept."""
    from rstar_math.cli import progress
    from rstar_math.errors import InputError
    from rstar_math.evolution.synthesis import SynthesisListener
    from rstar_math.evolution.synthesis import synthesize as run_job

    with progress.watch_rounds() as listener:
        work = run_job(job, folder, SynthesisListener(listener))
        result = run(work, is_saved=True, download_for=job.config)
    if not result.kept:
        reasons = [f"{n} {name}" for name, n in result.counts.items() if name != "kept" and n]
        raise InputError(
            f"No new problem was kept ({', '.join(reasons)}); use other seed problems, a stronger "
            "model or more --requests."
        )
    result.write(out)
    return result


def _synthesis_job(
    options: "SynthesisConfig",
    config: Any,
    sources: list[str],
    excluded: tuple[list[str], bool],
    *,
    cluster: str | None,
) -> "SynthesisJob":
    """The job of a command line. Reads the seed problems and the evaluation sets.

    `excluded` holds the sources of evaluation sets, and whether their templates are excluded too.
    """
    from rstar_math.cli import display
    from rstar_math.evolution.synthesis import SynthesisJob, majority_config
    from rstar_math.problems.filtering import OverlapRule
    from rstar_math.problems.sources import read_sources
    from rstar_math.problems.synthesis import KnownProblems, require_seeds
    from rstar_math.runs.results import run_conditions

    with display.err.status("reading ..."):
        seeds = read_sources(sources)
        require_seeds(seeds, options)
        exclude, exclude_templates = excluded
        sets = _read_evaluations(exclude)
    solver = majority_config(config)
    return SynthesisJob(
        options=options,
        config=solver,
        seeds=seeds,
        known=(
            KnownProblems("in an evaluation set", sets, OverlapRule(templates=exclude_templates)),
            KnownProblems("a seed problem", {"seeds": seeds}),
        ),
        digests={"model.name": run_conditions(solver, guided=False)["model.name"]},
        cluster=cluster,
    )


def _synthesis_config(**options: Any) -> "SynthesisConfig":
    """The validated options. Raises `ConfigError`."""
    from pydantic import ValidationError

    from rstar_math.config.loading import explain
    from rstar_math.errors import ConfigError
    from rstar_math.problems.synthesis import SynthesisConfig

    try:
        return SynthesisConfig(**options)
    except ValidationError as error:
        raise ConfigError(f"rstar synthesize: {explain(error).message}.") from error


def _print_synthesis(result: "Synthesis") -> None:
    """Print the counts and some examples."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from rstar_math.cli import display

    table = Table("drafts", "", box=SIMPLE_HEAD, header_style="bold")
    table.columns[1].justify = "right"
    for name, count in result.counts.items():
        table.add_row(name, str(count))
    display.out.print(table)
    shown: Counter[str] = Counter()
    for example in result.examples:
        reason = example["why"]
        shown[reason] += 1
        if shown[reason] <= _MAX_EXAMPLES:
            because = f" ({example['because']})" if example["because"] else ""
            display.out.print(sanitize(f"{reason}: {example['draft']}{because}"), markup=False)
