"""`rstar grade`: whether an answer equals a reference, and why."""

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from rstar_math.errors import InputError

if TYPE_CHECKING:
    from rstar_math.grading.rules import Grade

_BATCH = 256
"""Lines in memory at once."""


def grade(
    pred: Annotated[str | None, typer.Argument(help="The answer to judge.")] = None,
    gold: Annotated[str | None, typer.Argument(help="The reference it is judged against.")] = None,
    jsonl: Annotated[
        str | None,
        typer.Option(
            help='A file of lines {"gold": ..., "pred": ...}, "-" for standard input; the same'
            ' lines with "verdict" and "reason" go to standard output.'
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Judge whether an answer equals a reference, and say why."""
    from rstar_math.grading.rules import normal_form

    if jsonl is not None:
        if pred is not None or gold is not None:
            raise InputError("Give either PRED and GOLD or --jsonl FILE, not both.")
        with _opened(jsonl) as lines:
            asyncio.run(_grade_lines(lines, jsonl))
        return
    if pred is None or gold is None:
        raise InputError(
            "Two answers are needed: rstar grade PRED GOLD, or rstar grade --jsonl FILE."
        )
    judgement = asyncio.run(_grade_pair(pred, gold))
    forms = normal_form(pred), normal_form(gold)
    if as_json:
        verdict = {"verdict": judgement.verdict.value, "reason": judgement.reason}
        typer.echo(json.dumps({**verdict, "pred_form": forms[0], "gold_form": forms[1]}))
        return
    typer.echo(f"{judgement.verdict.value}: {judgement.reason}")
    for name, form in zip(("answer", "reference"), forms, strict=True):
        typer.echo(f"  {name} reads as {form if form is not None else 'nothing known'}")


async def _grade_pair(pred: str, gold: str) -> "Grade":
    from rstar_math.grading.grader import Grader

    async with Grader() as grader:
        return await grader.compare(pred, gold)


@contextmanager
def _opened(path: str) -> Iterator[TextIO]:
    if path == "-":
        yield sys.stdin
        return
    try:
        file = open(path, encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); give a JSONL file, or - for standard input."
        ) from error
    with file:
        yield file


async def _grade_lines(lines: TextIO, path: str) -> None:
    from rstar_math.grading.grader import Grader

    async with Grader() as grader:
        for batch in _batches(lines, path):
            judged = await grader.compare_many([(row["pred"], row["gold"]) for row in batch])
            for row, judgement in zip(batch, judged, strict=True):
                verdict = {"verdict": judgement.verdict.value, "reason": judgement.reason}
                sys.stdout.write(json.dumps({**row, **verdict}) + "\n")
            sys.stdout.flush()


def _batches(lines: TextIO, path: str) -> Iterator[list[dict[str, Any]]]:
    """The rows, some at a time; the error of a malformed line comes after the rows before it."""
    batch: list[dict[str, Any]] = []
    try:
        for row in _rows(lines, path):
            batch.append(row)
            if len(batch) == _BATCH:
                yield batch
                batch = []
    except InputError:
        yield batch
        raise
    yield batch


def _rows(lines: TextIO, path: str) -> Iterator[dict[str, Any]]:
    name = "standard input" if path == "-" else path
    number = 0
    try:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _row(line, f"Line {number} of {name}")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is no UTF-8 after line {number}; save it as UTF-8.") from error


def _row(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f'{place} is no JSON; write {{"gold": "...", "pred": "..."}}.') from error
    if not isinstance(row, dict):
        raise InputError(f'{place} is no JSON object; write {{"gold": "...", "pred": "..."}}.')
    for key in ("gold", "pred"):
        if not isinstance(row.get(key), str):
            raise InputError(f'{place} has no text under "{key}"; write it as a JSON string.')
    return row
