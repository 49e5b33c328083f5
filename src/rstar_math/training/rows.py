"""Lines of training data as the trainers read them: the layouts of TRL, with what `rstar curate`
adds; other columns are passed over."""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rstar_math.errors import InputError
from rstar_math.problems import question_id
from rstar_math.problems.annotated import annotated_steps
from rstar_math.problems.solutions import Solved
from rstar_math.training.texts import prompt_text, segments
from rstar_math.types import Question, Step

R = TypeVar("R", bound=BaseModel)


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class SolutionRow(_Line):
    """A solution to imitate (TRL: prompt-completion)."""

    prompt: str
    completion: str = Field(min_length=1)
    outputs: tuple[tuple[int, int], ...] = ()
    """Pieces of the completion that the interpreter wrote, (start, end) in characters."""
    problem: str = ""


class PairRow(_Line):
    """Two continuations of a prompt (TRL: preference with explicit prompt)."""

    prompt: str
    chosen: str = Field(min_length=1)
    rejected: str = Field(min_length=1)
    problem: str
    weight: float = Field(1.0, gt=0)


class OutcomeRow(_Line):
    """A solution and whether its answer is right (ORM)."""

    prompt: str
    completion: str = Field(min_length=1)
    problem: str
    label: bool


class ValueRow(_Line):
    """The beginning of a solution and its Q in [-1, 1] (PQM)."""

    prompt: str
    completion: str = Field(min_length=1)
    problem: str
    value: float = Field(ge=-1, le=1)


def solution_row(question: Question, steps: Sequence[Step]) -> SolutionRow:
    """The row of a solution."""
    text, outputs = "", []
    for piece in segments(question, steps):
        if not piece.trained:
            outputs.append((len(text), len(text) + len(piece.text)))
        text += piece.text
    return SolutionRow(
        prompt=prompt_text(question),
        completion=text,
        outputs=tuple(outputs),
        problem=question.id,
    )


def annotated_rows(solved: Iterable[Solved]) -> tuple[list[SolutionRow], dict[str, int]]:
    """Rows of annotated solutions (`problems.annotated`), and how many were left out, by reason."""
    rows: list[SolutionRow] = []
    reasons: Counter[str] = Counter()
    for one in solved:
        found = annotated_steps(one.text, one.solution, one.answer)
        if found.reason is None:
            question = Question(one.id or question_id(one.text), one.text)
            rows.append(solution_row(question, found.steps))
        else:
            reasons[found.reason] += 1
    return rows, dict(reasons)


def read_rows(path: Path, kind: type[R]) -> list[R]:
    """The rows of a JSONL file, plain or gzipped. Raises `InputError` naming the first bad line,
    and where there are none."""
    rows: list[R] = []
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            lines = list(file)
        for number, line in enumerate(lines, 1):
            if line.strip():
                rows.append(_row(line, kind, f"{path}, line {number}"))
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read ({why}); name another file.") from error
    if not rows:
        raise InputError(f"{path} holds no rows to train on; curate a run that has some.")
    return rows


def _row(line: bytes, kind: type[R], where: str) -> R:
    try:
        return kind.model_validate(json.loads(line))
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"])) or "the line"
        raise InputError(
            f"{where}: {place}: {fault['msg']}; make the data with rstar curate."
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}).") from None


def fingerprint(rows: Iterable[BaseModel]) -> str:
    """A hash of rows in their order: what a checkpoint says it was trained on."""
    digest = blake2b(digest_size=16)
    for row in rows:
        digest.update(row.model_dump_json().encode("utf-8", "replace") + b"\n")
    return digest.hexdigest()


def held_out(problem: str, share: float, seed: int) -> bool:
    """Whether a problem belongs to the held-out part: by its id alone, so that all its rows go the
    same way in every round and every kind of data."""
    digest = blake2b(f"{seed}:{problem}".encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64
