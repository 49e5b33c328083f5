"""Problem sources named by one line of text: files, data sets, generators.

    problems.jsonl.gz?question=text&answer=label   a JSONL file, plain or gzipped
    hf:openai/gsm8k:main@test                      a data set for Hugging Face's `datasets`
    gym:chain_sum?size=500&seed=7                  a generator of reasoning-gym
    stories:words?size=2000&seed=1                 word problems with solutions, of our own
    toy:tasks?size=200&seed=1                      small problems with solutions, for trying out

`question` and `answer` name the columns, by default "problem" or "question", and "answer" or
"reference". Of a solution in an answer's column (`#### 72`, a box) the final answer is taken.
"""

import difflib
import gzip
import json
import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from rstar_math.errors import InputError, MissingDependencyError
from rstar_math.problems.jsonl import COLUMNS, Columns, problem_of, read_problems
from rstar_math.problems.stories import MOST_STORIES, Story, stories
from rstar_math.seeding import derive
from rstar_math.types import Problem, Question


@dataclass(frozen=True, slots=True)
class Task:
    """A problem and how it is solved."""

    problem: Problem
    solution: str
    """With marked calculations and a last line `#### answer`."""


_ONE = (
    ("{who} has {a} {what} and gets {b} more.", "+"),
    ("{who} finds {b} {what} and has {a} at home.", "+"),
    ("{who} puts {a} {what} next to {b} others.", "+"),
    ("{who} has {a} {what} and gives {b} away.", "-"),
    ("Of {a} {what} {who} loses {b}.", "-"),
    ("{who} sells {b} out of {a} {what}.", "-"),
    ("There are {a} bags with {b} {what} each.", "*"),
    ("{b} {what} lie in each of {a} boxes.", "*"),
)
_TWO = (
    ("{who} has {a} {what}, gets {b} more and then {c} more.", "++"),
    ("{who} has {a} {what}, gets {b} more and gives {c} away.", "+-"),
    ("{who} has {a} {what}, gives {b} away and gets {c} more.", "-+"),
    ("{who} has {a} {what}, loses {b} and gives {c} away.", "--"),
    ("There are {a} bags with {b} {what} each and {c} loose ones.", "*+"),
    ("Of {a} bags with {b} {what} each {c} {what} are gone.", "*-"),
)
MOST_TASKS = 1000
"""Most tasks of one seed: there are some thousand."""
_FIRST, _SECOND, _THIRD = (17, 18, 19), (3, 5), (1, 2)
"""Numbers that tell by themselves in which place they stand, and whose results all have two digits;
few other calculations come to the same, so that a right answer is seldom luck."""
_WHO = ("Ann", "Bob", "Eve", "Tom")
_WHAT = ("pears", "books", "coins", "cards")
_WORDS = {"+": "Put them together.", "-": "Take them away.", "*": "Count all bags."}
_VALUE = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def toy_tasks(size: int, seed: int = 0) -> Iterator[Task]:
    """`size` tasks, no two alike (at most `MOST_TASKS`); half of them take two calculations, as
    `level` says. The same for the same seed."""
    seen: set[str] = set()
    number = 0
    while len(seen) < size:
        rng = random.Random(derive(seed, "toy task", number))
        number += 1
        hard = rng.random() < 0.5
        pattern, signs = rng.choice(_TWO if hard else _ONE)
        a, b, c = rng.choice(_FIRST), rng.choice(_SECOND), rng.choice(_THIRD)
        names = {"who": rng.choice(_WHO), "what": rng.choice(_WHAT)}
        text = (pattern + " How many {what} are there now?").format(a=a, b=b, c=c, **names)
        if text in seen:
            continue
        seen.add(text)
        value, lines = a, []
        for sign, other in zip(signs, (b, c), strict=False):
            result = _VALUE[sign](value, other)
            lines.append(f"{_WORDS[sign]} <<{value}{sign}{other}={result}>>")
            value = result
        name = f"toy/{seed}/{len(seen) - 1}"
        level = "two steps" if hard else "one step"
        problem = Problem(Question(name, text), str(value), "toy", level)
        yield Task(problem, "\n".join([*lines, f"#### {value}"]))


CHECKED: Mapping[str, str] = {
    "aiw": "siblings, friends and colleagues counted (Alice in Wonderland)",
    "basic_arithmetic": "an expression of the four operations",
    "binary_alternation": "fewest swaps that make a binary text alternate",
    "chain_sum": "a chain of sums and differences",
    "circuit_logic": "output of a logic circuit, 0 or 1",
    "complex_arithmetic": "the four operations on complex numbers",
    "count_bits": "ones of a binary number",
    "count_primes": "primes of an interval",
    "dice": "a probability as a fraction",
    "gcd": "greatest common divisor",
    "gsm_symbolic": "word problems in the manner of GSM8K",
    "largest_island": "largest connected part of a grid",
    "lcm": "least common multiple",
    "leg_counting": "legs of a list of animals",
    "letter_counting": "occurrences of a letter",
    "maze": "steps of a shortest way",
    "products": "a product of two numbers",
    "rectangle_count": "rectangles of a drawing",
    "rotten_oranges": "time until all of a grid is reached",
    "self_reference": "solutions of statements about themselves",
    "simple_equations": "a linear equation in one unknown",
    "simple_geometry": "the last angle of a polygon",
}
"""Generators that may be named, and what they ask."""


def generate(
    name: str, size: int, seed: int, options: Mapping[str, Any] | None = None
) -> Iterator[Problem]:
    """`size` problems of a generator; the same for the same seed and version of reasoning-gym.

    `options` are the generator's own. Raises `InputError` for a generator or an option that is
    not known, `MissingDependencyError` without reasoning-gym.
    """
    if name not in CHECKED:
        close = difflib.get_close_matches(name, CHECKED, 1)
        hint = f"did you mean {close[0]}?" if close else f"take one of {', '.join(CHECKED)}."
        raise InputError(
            f"The generator {name!r} is not among those whose answers the grader can check; {hint}"
        )
    try:
        gym: Any = import_module("reasoning_gym")
    except ImportError as error:
        raise MissingDependencyError(
            f"gym:{name} needs reasoning-gym; type: pip install 'rstar-math[gym]'."
        ) from error
    try:
        made = gym.create_dataset(name, size=size, seed=seed, **(options or {}))
    except (TypeError, AssertionError, ValueError) as error:
        raise InputError(
            f"The generator {name!r} does not take these options ({error}); leave them out, or see "
            "its configuration in reasoning-gym."
        ) from error
    for number in range(size):
        entry = made[number]
        question = Question(f"gym/{name}/{seed}/{number}", str(entry["question"]).strip())
        yield Problem(question, str(entry["answer"]), f"gym/{name}")


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

    Raises `InputError` or, where a package is wanting, `MissingDependencyError`.
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
    from rstar_math.extraction import extract_answer

    return extract_answer(reference) or reference


def _columns(source: Source) -> Columns:
    question, answer = source.options.get("question"), source.options.get("answer")
    return Columns(
        (question,) if question else COLUMNS.question, (answer,) if answer else COLUMNS.answer
    )


def rows_of(source: Source) -> Iterator[Problem]:
    """The problems of a data set of the hub, answers as they stand in its column. Raises
    `InputError` and `MissingDependencyError`."""
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError(
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


_FINAL = "####"


@dataclass(frozen=True, slots=True)
class Solved:
    """A problem's text with its solution."""

    id: str | None
    """None where the file gives none."""
    text: str
    solution: str
    answer: str


def read_solutions(source: str) -> Iterator[Solved]:
    """The solutions of a source (see `problems.sources`); none of a source that has no column
    "solution", and no "answer" that holds one. Raises `InputError` and `MissingDependencyError`."""
    kind = parse_source(source)
    if kind.kind == "gym":
        return
    if kind.kind in TOLD:
        for told in told_by(kind):
            problem = told.problem
            final = problem.reference or ""
            yield Solved(problem.id, problem.question.text, told.solution, final)
        return
    if kind.kind == "hf":
        for problem in rows_of(kind):
            text = problem.reference or ""
            if _FINAL in text:
                final = text.rpartition(_FINAL)[2].strip()
                yield Solved(problem.id, problem.question.text, text, final)
        return
    for entry in _objects(Path(kind.name)):
        asked = entry.get(kind.options.get("question", "problem")) or entry.get("question")
        answer = entry.get(kind.options.get("answer", "answer"))
        solution = entry.get("solution") or (answer if _FINAL in str(answer) else None)
        if isinstance(asked, str) and isinstance(solution, str) and answer is not None:
            given = entry.get("id")
            final = str(answer).rpartition(_FINAL)[2].strip()
            yield Solved(None if given is None else str(given), asked, solution, final)


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file, plain or gzipped."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    entry = json.loads(line)
                    if not isinstance(entry, dict):
                        raise ValueError(f"line {number} is no object")
                    yield entry
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not a JSONL file of problems with answer and solution ({error})."
        ) from None
