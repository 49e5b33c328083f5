"""`rstar problems`: a set of problems without duplicates and without what evaluation sets ask."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rstar_math.cli.options import AsJson, print_json
from rstar_math.foreign import plain

if TYPE_CHECKING:
    from rich.table import Table

    from rstar_math.problems.decontamination import Decontaminated
    from rstar_math.problems.duplicates import Deduplicated
    from rstar_math.types import Problem

_EXAMPLES = 3
"""Examples shown of each kind."""
_CHARS = 160
"""Characters of a question shown."""


def problems(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="FILE.jsonl[.gz], hf:NAME:CONFIG@SPLIT or gym:NAME?size=500&seed=0. Columns: "
            "?question=KEY&answer=KEY.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="JSONL file to write; .gz is gzipped.")],
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE", help="Leave out what this evaluation set asks. Repeatable."),
    ] = None,
    dedup: Annotated[bool, typer.Option("--dedup/--no-dedup", help="Leave out duplicates.")] = True,
    templates: Annotated[
        bool,
        typer.Option(
            "--templates", help="Leave out an evaluation's questions with other numbers too."
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
    from rstar_math.cli import show
    from rstar_math.errors import InputError
    from rstar_math.problems.drawing import drawn
    from rstar_math.problems.writer import write_problems

    if seed is not None and limit is None:
        raise InputError("--seed draws as many problems as --limit says; give --limit too.")
    work = _gathered(sources, dedup, without, templates)
    work.kept = work.kept[:limit] if seed is None else drawn(work.kept, limit, seed)
    write_problems(out, work.kept)
    if as_json:
        print_json({"out": str(out), **work.as_json()})
        return
    show.out.print(work.table())
    for line in work.examples():
        show.out.print(plain(line), markup=False)
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


def _gathered(sources: list[str], dedup: bool, without: list[str] | None, templates: bool) -> _Work:
    """What is left of the sources' problems. Raises `InputError` where nothing is."""
    from rstar_math.cli import show
    from rstar_math.errors import InputError
    from rstar_math.problems.sources import read_sources

    with show.err.status("reading ...") as status:
        found = read_sources(sources)
        work = _Work(found, found)
        if dedup:
            status.update(f"looking for duplicates among {len(found)} problems ...")
            work.single = _deduplicated(work.kept)
            work.kept = work.single.kept
        if without:
            status.update(f"holding {len(work.kept)} problems against evaluation sets ...")
            work.clean = _decontaminated(work.kept, without, templates)
            work.kept = work.clean.kept
    if not work.kept:
        raise InputError(f"Of {len(found)} problems none is left; give other sources.")
    return work


def _short(problem: "Problem") -> str:
    """The beginning of a question on one line."""
    text = " ".join(problem.question.text.split())
    return text if len(text) <= _CHARS else f"{text[: _CHARS - 3]}..."


def _deduplicated(found: list["Problem"]) -> "Deduplicated":
    from rstar_math.grading import grade
    from rstar_math.problems.duplicates import deduplicate
    from rstar_math.types import Verdict

    return deduplicate(found, same_answer=lambda a, b: grade(a, b).verdict is Verdict.RIGHT)


def _decontaminated(
    found: list["Problem"], without: list[str], templates: bool
) -> "Decontaminated":
    from rstar_math.problems.decontamination import Evaluations, Rule, decontaminate
    from rstar_math.problems.sources import parse_source, read_source

    sets: dict[str, list[Problem]] = {}
    for text in without:
        title = parse_source(text).title
        sets[text if title in sets else title] = read_source(text)
    return decontaminate(found, Evaluations(sets, Rule(templates=templates)))
