"""From one line of text to problems.

    problems.jsonl.gz?question=text&answer=label   a JSONL file, plain or gzipped
    hf:openai/gsm8k:main@test                      a data set for Hugging Face's `datasets`
    gym:chain_sum?size=500&seed=7                  a generator of reasoning-gym
    stories:words?size=2000&seed=1                 word problems with solutions, of our own
    toy:tasks?size=200&seed=1                      small problems with solutions, for trying out

`question` and `answer` name the columns, by default "problem" or "question", and "answer" or
"reference". Of a solution in an answer's column (`#### 72`, a box) the final answer is taken.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from rstar_math.errors import InputError, MissingExtra
from rstar_math.problems.generators import generate
from rstar_math.problems.reader import COLUMNS, Columns, problem_of, read_problems
from rstar_math.problems.stories import MOST_STORIES, Story, stories
from rstar_math.testing.toytasks import MOST_TASKS, Task, toy_tasks
from rstar_math.types import Problem, Question

GENERATED = 500
"""Problems of a generator where no size is given."""
_KINDS = ("hf", "gym", "stories", "toy")
TOLD: Mapping[str, tuple[str, Callable[[int, int], Iterator[Story | Task]], int]] = {
    "stories": ("words", stories, MOST_STORIES),
    "toy": ("tasks", toy_tasks, MOST_TASKS),
}
"""The sources that this package tells itself, with solutions: name, maker, most problems."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where problems come from."""

    kind: str
    """One of "file", "hf", "gym", "stories" and "toy"."""
    name: str
    options: Mapping[str, str]

    @property
    def title(self) -> str:
        """A short name, also for problems that do not say where they come from."""
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
        raise InputError(f"{text!r} names no source; give FILE.jsonl, hf:NAME or gym:NAME.")
    try:
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        raise InputError(
            f"The options of {text!r} are not of the form ?key=value&key=value."
        ) from None
    if kind in ("file", "hf") and (strange := options.keys() - {"question", "answer"}):
        raise InputError(
            f"{text!r} has an option {min(strange)!r}; there are question and answer, which name "
            "columns."
        )
    return Source(kind, name, options)


def read_source(text: str, limit: int | None = None) -> list[Problem]:
    """The problems of a source in its order, at most `limit`; their `source` is set.

    Raises `InputError` or, where a package is wanting, `MissingExtra`.
    """
    source = parse_source(text)
    if source.kind == "file":
        found: Iterable[Problem] = read_problems(Path(source.name), limit, _columns(source))
    elif source.kind in TOLD:
        found = islice((told.problem for told in told_by(source)), limit)
    else:
        found = islice(rows_of(source) if source.kind == "hf" else _generated(source, limit), limit)
    problems = [
        replace(problem, source=problem.source or source.title, reference=_final(problem.reference))
        for problem in found
    ]
    if not problems:
        raise InputError(f"{text} holds no problems; give another source.")
    return problems


def read_sources(texts: Iterable[str], limit: int | None = None) -> list[Problem]:
    """The problems of several sources, at most `limit` of each. An id that an earlier source has
    is given the name of its source in front."""
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
            asked = Question(name, problem.question.text)
            problems.append(replace(problem, question=asked))
    return problems


def _final(reference: str | None) -> str | None:
    """The final answer of a whole solution; of everything else itself."""
    if reference is None or ("####" not in reference and "\\boxed" not in reference):
        return reference
    from rstar_math.grading import extract_answer

    return extract_answer(reference) or reference


def _columns(source: Source) -> Columns:
    question, answer = source.options.get("question"), source.options.get("answer")
    return Columns(
        (question,) if question else COLUMNS.question, (answer,) if answer else COLUMNS.answer
    )


def rows_of(source: Source) -> Iterator[Problem]:
    """The problems of a data set of the hub, answers as they stand in its column. Raises
    `InputError` and `MissingExtra`."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra(
            f"hf:{source.name} needs the package datasets; type: pip install 'rstar-math[train]'."
        ) from error
    name, _, split = source.name.partition("@")
    name, _, part = name.partition(":")
    try:
        found = datasets.load_dataset(name, part or None, split=split or None)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"The data set hf:{source.name} cannot be loaded ({reason}); the form is "
            "hf:NAME:CONFIG@SPLIT."
        ) from error
    if not split:
        if len(found) != 1:
            raise InputError(
                f"hf:{source.name} has the splits {', '.join(found)}; name one: "
                f"hf:{source.name}@{next(iter(found))}."
            )
        split, found = next(iter(found.items()))
    columns = _columns(source)
    for number, row in enumerate(found):
        entry: dict[str, Any] = {"id": f"{name}/{split}/{number}", **row}
        yield problem_of(entry, f"hf:{source.name}, row {number}", columns)


def told_by(source: Source) -> Iterator[Story | Task]:
    """The problems of a source of `TOLD`, with their solutions. Raises `InputError`."""
    name, tell, most = TOLD[source.kind]
    options = {key: _value(text) for key, text in source.options.items()}
    size, seed = options.pop("size", 200), options.pop("seed", 0)
    if source.name != name or options or not isinstance(size, int) or not isinstance(seed, int):
        raise InputError(
            f"{source.kind}: has one kind of problem; give {source.kind}:{name}?size=200&seed=0."
        )
    if not 1 <= size <= most:
        raise InputError(f"{source.kind}:{name} has at most {most} problems; give another size.")
    return tell(size, seed)


def _generated(source: Source, limit: int | None) -> Iterator[Problem]:
    """The problems of a generator."""
    options = {key: _value(text) for key, text in source.options.items()}
    size, seed = options.pop("size", GENERATED), options.pop("seed", 0)
    if not isinstance(size, int) or not isinstance(seed, int) or size < 1 or seed < 0:
        raise InputError(f"gym:{source.name} takes a size from 1 and a seed from 0, whole numbers.")
    return generate(source.name, size if limit is None else min(size, limit), seed, options)


def _value(text: str) -> Any:
    """An option as a number or a truth value where it is one."""
    if text in ("true", "false"):
        return text == "true"
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text
