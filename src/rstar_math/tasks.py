"""Kinds of problems: what an answer is, and what decides whether it is right.

A `Task` describes the answer that a question asks for. It is part of the `Question`, so a solver
sees all of it. A `Reference` decides whether an answer is right. Only a Verifier receives it. The
tests of `HiddenTests` are therefore not reachable from a `Question`.

| kind | task of the question | reference | answer |
| --- | --- | --- | --- |
| math | none | text, compared by meaning | number, expression, words |
| code | `CodeTask` | `HiddenTests` | a program |
| choice | `ChoiceTask` | `RightOptions` | letters |
| text | `TextTask` | `AcceptedTexts` | a few words |
"""

from dataclasses import dataclass
from enum import StrEnum
from string import ascii_uppercase
from typing import Literal

from rstar_math.text import count_noun

MAX_OPTIONS = 26
"""Maximum number of options of a choice; each has a letter."""
_SHOWN_TESTS = 3
"""Maximum number of public tests that are shown in a question."""
_SHOWN_TEST_CHARS = 600
"""Longer public tests are not shown. They still run."""


class Kind(StrEnum):
    """The kind of a problem, which selects prompts, verifier and grouping of answers."""

    MATH = "math"
    CODE = "code"
    CHOICE = "choice"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class CallTest:
    """A test of a function: an expression that calls it, and its value."""

    call: str
    """A Python expression, for example "add(1, 2)". It runs together with the program."""
    expected: str
    """The value as a Python literal, for example "3" or "{1, 2}". It never meets the program."""
    tolerance: float | None = None
    """Maximum difference of floats, absolute or relative; None means equality."""


@dataclass(frozen=True, slots=True)
class StreamTest:
    """A test of a whole program: its standard input and its standard output."""

    stdin: str
    stdout: str
    tolerance: float | None = None
    """Maximum difference of numbers with a decimal point, absolute or relative; None means equal
    texts."""


Test = CallTest | StreamTest


@dataclass(frozen=True, slots=True)
class CodeTask:
    """The question asks for a Python program."""

    function: str | None = None
    """Name of the function that the tests call; None for a program that reads standard input."""
    setup: str = ""
    """Code that runs before the program, for example imports and given helper functions."""
    examples: tuple[Test, ...] = ()
    """Public tests. A search may show and run them."""
    inputs: tuple[str, ...] = ()
    """Inputs without known outputs, by which programs are compared: calls or standard inputs."""
    time_s: float = 5.0
    """Maximum processor time per test, in seconds."""
    memory_mb: int = 512
    """Maximum memory per test, in MiB, in addition to that of the interpreter."""
    tuples_are_lists: bool = False
    """Whether tuples equal lists of the same items, as in sets with JSON values."""


@dataclass(frozen=True, slots=True)
class ChoiceTask:
    """The question asks for one option, or for all options that are right."""

    options: tuple[str, ...]
    several: bool = False
    """Whether several options can be right."""


TextForm = Literal["words", "yesno", "name", "date"]
"""How short texts are normalised before they are compared."""


@dataclass(frozen=True, slots=True)
class TextTask:
    """The question asks for a few words."""

    form: TextForm = "words"


Task = CodeTask | ChoiceTask | TextTask


@dataclass(frozen=True, slots=True)
class HiddenTests:
    """The tests that a program must pass besides the public ones."""

    tests: tuple[Test, ...]


@dataclass(frozen=True, slots=True)
class RightOptions:
    """The letters of the right options, in ascending order."""

    letters: tuple[str, ...]

    def __str__(self) -> str:
        return ", ".join(self.letters)


@dataclass(frozen=True, slots=True)
class AcceptedTexts:
    """Texts that are all right answers; the first one is the usual form."""

    texts: tuple[str, ...]

    def __str__(self) -> str:
        return " / ".join(self.texts)


Reference = str | HiddenTests | RightOptions | AcceptedTexts
"""The reference of a problem. A plain text is the answer of a mathematical problem."""

_KINDS: dict[type, Kind] = {
    type(None): Kind.MATH,
    CodeTask: Kind.CODE,
    ChoiceTask: Kind.CHOICE,
    TextTask: Kind.TEXT,
}
_REFERENCES: dict[Kind, type] = {
    Kind.MATH: str,
    Kind.CODE: HiddenTests,
    Kind.CHOICE: RightOptions,
    Kind.TEXT: AcceptedTexts,
}


def kind_of(task: Task | None) -> Kind:
    """The kind of a problem with this task; None is a mathematical problem."""
    return _KINDS[type(task)]


def fits(task: Task | None, reference: Reference | None) -> bool:
    """Whether a reference is of the type that belongs to the task."""
    return reference is None or isinstance(reference, _REFERENCES[kind_of(task)])


def describe_reference(reference: Reference) -> str:
    """The reference in one line, for reports and pages."""
    if isinstance(reference, HiddenTests):
        count = len(reference.tests)
        return count_noun(count, "hidden test")
    return str(reference)


def letters(count: int) -> str:
    """The letters of the first `count` options."""
    return ascii_uppercase[:count]


def shown_text(text: str, task: Task | None) -> str:
    """The question as a solver sees it: its text, and what the task adds to it.

    For a program these are the name of the function and the first public tests; for a choice the
    options. A question whose text already contains all options or tests is returned unchanged.
    """
    text = text.strip()
    match task:
        case CodeTask():
            return "\n\n".join([text, *_code_parts(text, task)])
        case ChoiceTask(options=options, several=several):
            lines = [
                f"{letter}. {option}" for letter, option in zip(letters(26), options, strict=False)
            ]
            if all(line in text for line in lines):
                return text
            ask = "Choose all options that are right." if several else "Choose one option."
            return "\n".join([text, *lines, ask])
        case TextTask(form="yesno"):
            return f"{text}\nAnswer yes or no."
    return text


def _code_parts(text: str, task: CodeTask) -> list[str]:
    """What a task adds to the text of a code problem."""
    parts: list[str] = []
    if task.function is None:
        parts.append("Write a program that reads standard input and prints to standard output.")
    elif f"function {task.function}." not in text:
        parts.append(f"Write the function {task.function}.")
    examples = [
        shown for test in task.examples if len(shown := _example(test)) <= _SHOWN_TEST_CHARS
    ]
    missing = [shown for shown in examples if not _contains(text, shown)]
    return parts + missing[:_SHOWN_TESTS]


def _example(test: Test) -> str:
    """One public test in words."""
    if isinstance(test, CallTest):
        return f"Example: {test.call} returns {test.expected}"
    return f"Example input:\n{test.stdin.rstrip()}\nExample output:\n{test.stdout.rstrip()}"


def _contains(text: str, shown: str) -> bool:
    """Whether the text has all lines of an example that are more than its labels."""
    body = shown.removeprefix("Example: ").replace(" returns ", "\n")
    lines = [line.strip() for line in body.splitlines()]
    found = {line.strip().removeprefix(">>> ") for line in text.splitlines()}
    return all(line in found for line in lines if not line.startswith("Example "))
