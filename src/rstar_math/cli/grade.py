"""`rstar grade`: grades answers against references and explains the verdict."""

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from rstar_math.errors import InputError
from rstar_math.text import sanitize

if TYPE_CHECKING:
    from rstar_math.grading.rules import Grade

_BATCH_SIZE = 256
"""Maximum number of lines in memory."""


def grade(
    pred: Annotated[str | None, typer.Argument(metavar="PRED", help="The answer to grade.")] = None,
    gold: Annotated[
        str | None, typer.Argument(metavar="GOLD", help="The reference answer.")
    ] = None,
    jsonl: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help='JSONL file with lines {"gold": ..., "pred": ...}, or "-" for stdin. Prints the '
            'lines with the added fields "verdict" and "reason".',
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")
    ] = False,
) -> None:
    """Grade an answer against a reference answer and explain the verdict."""
    from rstar_math.grading.rules import normal_form

    if jsonl is not None:
        if pred is not None or gold is not None:
            raise InputError(
                "PRED and GOLD cannot be combined with --jsonl; pass one or the other."
            )
        with _open_input(jsonl) as lines:
            asyncio.run(_grade_lines(lines, jsonl))
        return
    if pred is None or gold is None:
        raise InputError(
            "PRED or GOLD is missing; use rstar grade PRED GOLD or rstar grade --jsonl FILE."
        )
    result = asyncio.run(_grade_pair(pred, gold))
    forms = normal_form(pred), normal_form(gold)
    if as_json:
        verdict = {"verdict": result.verdict.value, "reason": result.reason}
        typer.echo(json.dumps({**verdict, "pred_form": forms[0], "gold_form": forms[1]}))
        return
    typer.echo(f"{result.verdict.value}: {result.reason}")
    for name, form in zip(("answer", "reference"), forms, strict=True):
        typer.echo(f"  {name} parsed as: {sanitize(form) if form else '(not understood)'}")


async def _grade_pair(pred: str, gold: str) -> "Grade":
    from rstar_math.grading.grader import Grader

    async with Grader() as grader:
        return await grader.compare(pred, gold)


@contextmanager
def _open_input(path: str) -> Iterator[TextIO]:
    if path == "-":
        yield sys.stdin
        return
    try:
        file = open(path, encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise InputError(
            f"Cannot read {path} ({error.strerror}); pass a JSONL file, or - for stdin."
        ) from error
    with file:
        yield file


async def _grade_lines(lines: TextIO, path: str) -> None:
    from rstar_math.grading.grader import Grader

    async with Grader() as grader:
        for batch in _batches(lines, path):
            grades = await grader.compare_many([(row["pred"], row["gold"]) for row in batch])
            for row, result in zip(batch, grades, strict=True):
                verdict = {"verdict": result.verdict.value, "reason": result.reason}
                sys.stdout.write(json.dumps({**row, **verdict}) + "\n")
            sys.stdout.flush()


def _batches(lines: TextIO, path: str) -> Iterator[list[dict[str, Any]]]:
    """Yields rows in batches. The error of a malformed line is raised after the rows before it."""
    batch: list[dict[str, Any]] = []
    try:
        for row in _rows(lines, path):
            batch.append(row)
            if len(batch) == _BATCH_SIZE:
                yield batch
                batch = []
    except InputError:
        yield batch
        raise
    yield batch


def _rows(lines: TextIO, path: str) -> Iterator[dict[str, Any]]:
    name = "stdin" if path == "-" else path
    number = 0
    try:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _row(line, f"Line {number} of {name}")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 after line {number}; save it as UTF-8.") from error


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f'{where} is not JSON; write {{"gold": "...", "pred": "..."}}.') from error
    if not isinstance(row, dict):
        raise InputError(f'{where} is not a JSON object; write {{"gold": "...", "pred": "..."}}.')
    for key in ("gold", "pred"):
        if not isinstance(row.get(key), str):
            raise InputError(f'{where} has no string under "{key}"; write it as a JSON string.')
    return row
