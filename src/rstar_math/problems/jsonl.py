"""Reads, writes and samples problems in JSONL files.

Each line holds one object. The question is stored under "problem" or "question". The optional
reference answer is stored under "answer" or "reference". "id", "source" and "level" are optional. A
problem without an id gets a hash of its question as id. Code problems, choices and short texts have
the further keys of `task_records`; "images" lists files beside the problem file, or data URIs.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

from rstar_math.errors import InputError
from rstar_math.files import atomic_write, iter_lines
from rstar_math.problems.layouts import recognise
from rstar_math.seeding import derive
from rstar_math.task_records import (
    MAX_IMAGE_BYTES,
    MAX_IMAGES,
    image_uri,
    make_image,
    parse_image,
    parse_reference,
    parse_task,
    reference_entry,
    task_entry,
)
from rstar_math.tasks import Reference
from rstar_math.types import Image, Problem, Question

MAX_QUESTION_CHARS = 20_000
"""Maximum length of a question in characters."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The keys of the question and the answer in a row. The first key that is present is used."""

    question: tuple[str, ...] = ("problem", "question")
    answer: tuple[str, ...] = ("answer", "reference")


COLUMNS = Columns()
_LINE_HINT = 'write one object per line, such as {"problem": "...", "answer": "..."}'


def question_id(text: str) -> str:
    """The id of a question that has none: a hash of its text."""
    return blake2b(text.strip().encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def read_problems(
    path: Path, limit: int | None = None, columns: Columns = COLUMNS
) -> list[Problem]:
    """The problems of a file in its order, at most `limit`.

    No line is skipped: the first invalid line raises `InputError` with its number.
    """
    problems: list[Problem] = []
    lines_by_id: dict[str, int] = {}
    for number, problem in islice(_entries(path, columns), limit):
        if problem.id in lines_by_id:
            raise InputError(
                f"{path}, line {number} repeats the id {problem.id!r} of line "
                f"{lines_by_id[problem.id]}; give each problem its own id."
            )
        lines_by_id[problem.id] = number
        problems.append(problem)
    if not problems:
        raise InputError(f"{path} has no problems; it needs one JSON object per line.")
    return problems


def _entries(path: Path, columns: Columns) -> Iterator[tuple[int, Problem]]:
    """Pairs of line number and problem."""
    try:
        for number, line in iter_lines(path):
            if line.strip():
                where = f"{path}, line {number}"
                entry = _object(line, where)
                yield number, parse_problem(entry, where, columns, folder=path.parent)
    except FileNotFoundError:
        raise InputError(f"File {path} not found; pass a JSONL file of problems.") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; pass a JSONL file of problems.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path} cannot be read ({error}); pass a JSONL file of problems, plain or gzipped."
        ) from error


def _object(line: bytes, where: str) -> Mapping[str, Any]:
    """The JSON object of one line. `where` names the line in the `InputError`."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}); {_LINE_HINT}.") from None
    if not isinstance(entry, dict):
        raise InputError(f"{where} is not a JSON object; {_LINE_HINT}.")
    return entry


def parse_problem(
    entry: Mapping[str, Any], where: str, columns: Columns = COLUMNS, *, folder: Path | None = None
) -> Problem:
    """The problem of one row. `where` names the row in the `InputError`.

    Rows of known data sets are recognised (`layouts`), unless `columns` names other columns.
    `folder` is the folder of image files; None means that images must be data URIs.
    """
    try:
        entry = recognise(entry) if columns == COLUMNS else entry
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{where}: {error}.") from None
    text = _text(entry, columns.question, where)
    if text is None or not text.strip():
        present = ", ".join(map(str, list(entry)[:8])) or "no keys"
        expected = " or ".join(f'"{key}"' for key in columns.question)
        fix = "write the question there"
        if columns == COLUMNS:
            fix += ", or name its column: rstar prepare 'FILE?question=COLUMN&answer=COLUMN'"
        raise InputError(f"{where} has no text under {expected} (it has {present}); {fix}.")
    if len(text) > MAX_QUESTION_CHARS:
        raise InputError(
            f"{where}: the question has {len(text)} characters, above the maximum of "
            f"{MAX_QUESTION_CHARS}; shorten it or remove the line."
        )
    try:
        task = parse_task(entry)
        images = tuple(_image(item, folder) for item in _images(entry))
        if task is None:
            reference: Reference | None = _text(entry, columns.answer, where)
        else:
            answers = (entry[key] for key in columns.answer if entry.get(key) is not None)
            reference = parse_reference(entry, task, next(answers, None))
    except ValueError as error:
        raise InputError(f"{where}: {error}.") from None
    name = _text(entry, ("id",), where)
    shown = Question("", text, task).shown
    return Problem(
        question=Question(name or _id_of(shown, images), text, task, images),
        reference=reference,
        source=_text(entry, ("source",), where),
        level=_text(entry, ("level",), where),
    )


def _id_of(shown: str, images: tuple[Image, ...]) -> str:
    """The id of a problem that has none."""
    return question_id(shown + "".join(image_uri(image) for image in images))


def _images(entry: Mapping[str, Any]) -> list[Any]:
    """The images of a row. Raises `ValueError`."""
    images = entry.get("images", [])
    if not isinstance(images, list) or len(images) > MAX_IMAGES:
        raise ValueError(f'"images" is not a list of at most {MAX_IMAGES} files or data URIs')
    return images


def _image(item: Any, folder: Path | None) -> Image:
    """An image, read from its data URI or its file. Raises `ValueError`."""
    if not isinstance(item, str) or "://" in item:
        raise ValueError(
            f'"images" names {str(item)[:80]!r}; save the picture to a file and write its path'
        )
    if item.startswith("data:"):
        return parse_image(item)
    if folder is None:
        raise ValueError(f"the image {item!r} is a file; only data URIs can be used here")
    try:
        with (folder / item).open("rb") as file:
            return make_image(file.read(MAX_IMAGE_BYTES + 1))
    except OSError as error:
        raise ValueError(f"the image {item!r} cannot be read ({error.strerror})") from None


def _text(entry: Mapping[str, Any], keys: tuple[str, ...], where: str) -> str | None:
    """The value of the first key that is present, as text. Only text and numbers are accepted."""
    for key in keys:
        value = entry.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise InputError(f'{where}: "{key}" is {type(value).__name__}; it must be text.')
        text = str(value)
        if "\x00" in text or any("\ud800" <= c <= "\udfff" for c in text):
            raise InputError(
                f'{where}: "{key}" has a null character or an unpaired surrogate; remove it.'
            )
        return text
    return None


def write_problems(
    path: Path,
    problems: Sequence[Problem],
    extra: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write problems to a JSONL file that `read_problems` reads; gzipped if the name ends in .gz.

    `extra` maps problem ids to additional keys. The file appears under its name only when it is
    complete and on disk. Raises `InputError` if it cannot be written.
    """
    lines = [
        json.dumps(_entry(p) | {**(extra or {}).get(p.id, {})}, ensure_ascii=False)
        for p in problems
    ]
    content = "".join(f"{line}\n" for line in lines).encode()
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    try:
        with atomic_write(path) as part:
            part.write_bytes(content)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}); choose another file."
        ) from error


def _entry(problem: Problem) -> dict[str, Any]:
    """The JSON object of a problem, without unknown fields."""
    question = problem.question
    images = [image_uri(image) for image in question.images]
    found = {
        "id": problem.id,
        "problem": question.text,
        **task_entry(question.task),
        **reference_entry(problem.reference),
        "images": images or None,
        "source": problem.source,
        "level": problem.level,
    }
    return {key: text for key, text in found.items() if text is not None}


def sample(problems: Sequence[Problem], size: int | None, seed: int) -> list[Problem]:
    """At most `size` random problems, in their original order.

    The selection depends only on the seed and the ids, so a larger sample contains a smaller one.
    """
    if size is None or size >= len(problems):
        return list(problems)
    ranked = sorted(problems, key=lambda problem: derive(seed, problem.id))
    chosen = {problem.id for problem in ranked[:size]}
    return [problem for problem in problems if problem.id in chosen]
