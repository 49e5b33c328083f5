"""Problem sources named by one line of text: files, data sets, generators.

    problems.jsonl.gz?question=text&answer=label   a JSONL file, plain or gzipped
    hf:openai/gsm8k:main@test                      a data set of the Hugging Face hub
    gym:chain_sum?size=500&seed=7                  a generator of reasoning-gym
    stories:words?size=2000                        word problems with solutions, by this project
    toy:tasks?size=200&seed=1                      small problems with solutions, for a first try

`question` and `answer` name the columns; the defaults are "problem" or "question", and "answer" or
"reference". If the answer column holds a whole solution (`#### 72`, a box), its final answer is
taken. `shuffle=SEED` mixes the options of choices. Rows of known layouts are recognised
(`layouts`).
"""

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from rstar_math.errors import InputError, MissingDependencyError
from rstar_math.extraction import extract_stated_answer
from rstar_math.files import iter_lines
from rstar_math.problems.generated import MAX_TASKS, Task, generate, toy_tasks
from rstar_math.problems.jsonl import COLUMNS, Columns, parse_problem, read_problems
from rstar_math.problems.layouts import shuffle_options
from rstar_math.tasks import Reference
from rstar_math.types import Problem

GYM_SIZE = 500
"""Problems of a reasoning-gym generator if no size is given."""
STORIES = Path(str(files("rstar_math.problems"))) / "stories.jsonl.gz"
"""Word problems with solutions, written by `tools/stories` with seed 2."""
MAX_STORIES = 9000
"""Problems in `STORIES`."""
_KINDS = ("hf", "gym", "stories", "toy")
_SOLUTION = "####"
"""Marks the final answer in an annotated solution, as in GSM8K."""


@dataclass(frozen=True, slots=True)
class Source:
    """A parsed source."""

    kind: str
    """One of "file", "hf", "gym", "stories" and "toy"."""
    name: str
    options: Mapping[str, str]

    @property
    def title(self) -> str:
        """A short name, used as `Problem.source` where the problems state none."""
        if self.kind != "file":
            return self.name if self.kind == "hf" else f"{self.kind}/{self.name}"
        path = Path(self.name)
        stem = path.name.removesuffix(".gz").removesuffix(".jsonl")
        return f"{path.parent.name}/{stem}" if path.parent.name else stem


def is_source(text: str) -> bool:
    """Whether a text names a source, and not a benchmark."""
    return text.startswith(tuple(f"{kind}:" for kind in _KINDS)) or ".jsonl" in text


def parse_source(text: str) -> Source:
    """The source that a text names. Raises `InputError`."""
    kind, colon, rest = text.partition(":")
    if not colon or kind not in _KINDS:
        kind, rest = "file", text
    name, _, query = rest.partition("?") if "=" in rest.partition("?")[2] else (rest, "", "")
    if not name:
        raise InputError(f"{text!r} does not name a source; use FILE.jsonl, hf:NAME or gym:NAME.")
    try:
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        raise InputError(
            f"The options of {text!r} do not have the form ?key=value&key=value."
        ) from None
    if kind in ("file", "hf"):
        if unknown := options.keys() - {"question", "answer", "shuffle"}:
            raise InputError(
                f"Unknown option {min(unknown)!r} in {text!r}; the options are question and answer "
                "(names of columns) and shuffle (a seed for the order of options)."
            )
        if not options.get("shuffle", "0").isdecimal():
            raise InputError(f"{text!r} needs a whole number from 0 after shuffle=.")
    return Source(kind, name, options)


def read_source(text: str, limit: int | None = None) -> list[Problem]:
    """The problems of a source in its order, at most `limit`, with their `source` set.

    Raises `InputError`, or `MissingDependencyError` if a package is not installed.
    """
    source = parse_source(text)
    problems = [
        replace(
            problem,
            source=problem.source or source.title,
            reference=_final_answer(problem.reference),
        )
        for problem in islice(_problems(source, limit), limit)
    ]
    if not problems:
        raise InputError(f"{text} has no problems; use another source.")
    if (seed := source.options.get("shuffle")) is not None:
        problems = [shuffle_options(problem, int(seed)) for problem in problems]
    return problems


def _problems(source: Source, limit: int | None) -> Iterable[Problem]:
    """The problems as the source states them."""
    match source.kind:
        case "hf":
            return _hub_problems(source)
        case "gym":
            return _gym_problems(source, limit)
        case "stories":
            size = _stories_size(source)
            stories = read_problems(STORIES, size)
            return (replace(each, source="stories") for each in stories)
        case "toy":
            return (task.problem for task in _toy_tasks(source))
    return read_problems(Path(source.name), limit, _columns(source))


def read_sources(texts: Iterable[str], limit: int | None = None) -> list[Problem]:
    """The problems of several sources, at most `limit` of each.

    If an id was used by an earlier source, the source's title is put in front of it.
    """
    problems: list[Problem] = []
    taken: set[str] = set()
    for number, text in enumerate(texts, 1):
        title = parse_source(text).title
        for problem in read_source(text, limit):
            name = problem.id
            if name in taken:
                name = f"{title}/{name}"
            if name in taken:
                name = f"{number}/{name}"
            taken.add(name)
            problems.append(replace(problem, question=replace(problem.question, id=name)))
    return problems


@dataclass(frozen=True, slots=True)
class AnnotatedProblem:
    """A question with an annotated solution."""

    id: str | None
    """None if the file gives none."""
    question: str
    solution: str
    answer: str


def read_solutions(text: str) -> Iterator[AnnotatedProblem]:
    """The annotated solutions of a source, from a column "solution" or an answer with `####`.

    Rows without a solution are skipped. Raises `InputError` and `MissingDependencyError`.
    """
    source = parse_source(text)
    match source.kind:
        case "gym":
            return
        case "toy":
            for task in _toy_tasks(source):
                problem = task.problem
                reference = problem.reference_text or ""
                yield AnnotatedProblem(problem.id, problem.question.text, task.solution, reference)
        case "hf":
            for problem in _hub_problems(source):
                solution = problem.reference_text or ""
                if _SOLUTION in solution:
                    answer = solution.rpartition(_SOLUTION)[2].strip()
                    yield AnnotatedProblem(problem.id, problem.question.text, solution, answer)
        case "stories":
            rows = _json_objects(STORIES)
            yield from _annotated(islice(rows, _stories_size(source)), {})
        case _:
            yield from _annotated(_json_objects(Path(source.name)), source.options)


def _annotated(
    rows: Iterable[Mapping[str, Any]], options: Mapping[str, str]
) -> Iterator[AnnotatedProblem]:
    """The rows that have a solution."""
    for row in rows:
        question = row.get(options.get("question", "problem")) or row.get("question")
        answer = row.get(options.get("answer", "answer"))
        solution = row.get("solution") or (answer if _SOLUTION in str(answer) else None)
        if isinstance(question, str) and isinstance(solution, str) and answer is not None:
            name = row.get("id")
            final = str(answer).rpartition(_SOLUTION)[2].strip()
            yield AnnotatedProblem(None if name is None else str(name), question, solution, final)


def _json_objects(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file, plain or gzipped."""
    try:
        for number, line in iter_lines(path):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"line {number} is not an object")
                yield row
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not a JSONL file of problems with answer and solution ({error})."
        ) from None


def load_hub_dataset(
    name: str, config: str | None, split: str | None
) -> tuple[Iterable[Mapping[str, Any]], str]:
    """The rows of a data set of the Hugging Face hub (or a local folder), and their split.

    Downloads the data set unless it is cached. Without `split` the data set must have exactly one.
    Raises `InputError`, or `MissingDependencyError` without the package datasets.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError(
            f"hf:{name} needs the package datasets; run: pip install 'rstar-math[train]'."
        ) from error
    try:
        found = datasets.load_dataset(name, config, split=split)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"The data set hf:{name} cannot be loaded ({reason}); the form is hf:NAME:CONFIG@SPLIT."
        ) from error
    if split is not None:
        return found, split
    if len(found) != 1:
        raise InputError(
            f"hf:{name} has the splits {', '.join(found)}; choose one: "
            f"hf:{name}@{next(iter(found))}."
        )
    [(only, rows)] = found.items()
    return rows, only


def _hub_problems(source: Source) -> Iterator[Problem]:
    """The problems of a data set of the hub, with the answers as they stand in its column."""
    path, _, split = source.name.partition("@")
    name, _, config = path.partition(":")
    rows, split = load_hub_dataset(name, config or None, split or None)
    columns = _columns(source)
    for number, row in enumerate(rows):
        entry: dict[str, Any] = {"id": f"{name}/{split}/{number}", **row}
        yield parse_problem(entry, f"hf:{source.name}, row {number}", columns)


def _gym_problems(source: Source, limit: int | None) -> Iterator[Problem]:
    options = {key: _value(text) for key, text in source.options.items()}
    size, seed = options.pop("size", GYM_SIZE), options.pop("seed", 0)
    if not isinstance(size, int) or not isinstance(seed, int) or size < 1 or seed < 0:
        raise InputError(f"gym:{source.name} needs whole numbers: size from 1 and seed from 0.")
    return generate(source.name, size if limit is None else min(size, limit), seed, options)


def _toy_tasks(source: Source) -> Iterator[Task]:
    options = {key: _value(text) for key, text in source.options.items()}
    size, seed = options.pop("size", 200), options.pop("seed", 0)
    if source.name != "tasks" or options or not isinstance(size, int) or not isinstance(seed, int):
        raise InputError(f"Unknown source toy:{source.name}; use toy:tasks?size=200&seed=0.")
    if not 1 <= size <= MAX_TASKS:
        raise InputError(f"toy:tasks has 1 to {MAX_TASKS} problems, not {size}.")
    return toy_tasks(size, seed)


def _stories_size(source: Source) -> int:
    options = {key: _value(text) for key, text in source.options.items()}
    size = options.pop("size", 200)
    if source.name != "words" or options or not isinstance(size, int):
        raise InputError("Unknown source of stories; use stories:words?size=200.")
    if not 1 <= size <= MAX_STORIES:
        raise InputError(f"stories:words has 1 to {MAX_STORIES} problems, not {size}.")
    return size


def _value(text: str) -> Any:
    """An option as a number or a truth value if it is one, else as text."""
    if text in ("true", "false"):
        return text == "true"
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def _columns(source: Source) -> Columns:
    question, answer = source.options.get("question"), source.options.get("answer")
    return Columns(
        (question,) if question else COLUMNS.question, (answer,) if answer else COLUMNS.answer
    )


def _final_answer(reference: Reference | None) -> Reference | None:
    """The final answer of a whole solution; any other reference unchanged."""
    if not isinstance(reference, str) or (
        _SOLUTION not in reference and "\\boxed" not in reference
    ):
        return reference
    return extract_stated_answer(reference) or reference
