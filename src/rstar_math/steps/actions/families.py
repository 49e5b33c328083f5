"""Families of tasks: worked examples of rStar's actions for one kind of question, as a folder of
text. All examples that come with the package were written for it."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rstar_math.errors import ConfigError, InputError
from rstar_math.steps.actions.reading import read_answer, read_rephrasing, read_thought
from rstar_math.steps.subquestions import check_subquestions

RIGHT = "Is the answer right?"
"""What the examples of a solution's check ask after it."""


@dataclass(frozen=True, slots=True)
class Family:
    """Prompts for a kind of question. Each text of examples ends in an empty line."""

    name: str
    description: str
    instruction: str
    """What asks for a solution without any example."""
    chat_instruction: str
    """The same for an instruct model, which follows the question in a user message."""
    depth: int
    """Most steps of a path (rStar: 5, for MATH 8)."""
    cot: str
    """Whole solutions: for A2, A4 and the discriminator."""
    thoughts: str
    """Solutions of one thought a line, for A1."""
    subquestions: str
    """Solutions by sub-questions, for A3."""
    rephrase: str
    """Questions rephrased, for A5."""
    verify: str
    """Solutions judged right or wrong."""

    @property
    def digest(self) -> str:
        """Tells texts apart that were changed: 16 hexadecimal digits."""
        said = (self.instruction, self.chat_instruction, str(self.depth))
        text = "\x1f".join((*said, *self.texts))
        return sha256(text.encode()).hexdigest()[:16]

    @property
    def texts(self) -> tuple[str, ...]:
        """All examples."""
        return self.cot, self.thoughts, self.subquestions, self.rephrase, self.verify


class _Card(BaseModel):
    """`family.toml`."""

    model_config = ConfigDict(extra="forbid")

    description: str
    instruction: str = Field(min_length=1)
    chat_instruction: str = ""
    depth: int = Field(ge=1)


@cache
def family(name: str) -> Family:
    """The family of a name that comes with the package, or of a folder's path, its examples
    checked against the grammar.

    Such a folder holds `family.toml`, `cot.txt`, `thoughts.txt`, `subquestions.txt`,
    `rephrase.txt` and `verify.txt`. Raises `ConfigError` for an unknown name and a file that is
    missing or cannot be read, `InputError` for an example that is not well formed.
    """
    shipped = files("rstar_math.steps") / "families"
    names = sorted(each.name for each in shipped.iterdir() if each.is_dir())
    folder: Traversable = shipped / name if name in names else Path(name).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f"There is no family of prompts called {name!r} and no such folder; take "
            f"{', '.join(names)} or the path of a folder with prompts of your own."
        )
    card = _card(folder)
    texts = {kind: _examples(folder, kind, check) for kind, check in _CHECKS.items()}
    chat = card.chat_instruction or card.instruction
    return Family(name, card.description, card.instruction, chat, card.depth, **texts)


def _card(folder: Traversable) -> _Card:
    text = _text(folder, "family.toml")
    try:
        return _Card.model_validate(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise ConfigError(
            f"family.toml in {folder} is not as it should be ({' '.join(str(error).split())}); "
            "give it a description, an instruction and a depth of 1 or more."
        ) from None


def _examples(folder: Traversable, kind: str, check: Callable[[str], None]) -> str:
    """The examples in a file, each found well formed, and an empty line."""
    text = _text(folder, f"{kind}.txt").strip()
    try:
        if not text:
            raise InputError("It holds no example.")
        check(text)
    except InputError as error:
        raise InputError(
            f"{kind}.txt in {folder} cannot be used: {error} Write it like "
            f"steps/families/school/{kind}.txt of the package."
        ) from None
    return text + "\n\n"


def _text(folder: Traversable, name: str) -> str:
    try:
        return (folder / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{name} in {folder} cannot be read ({type(error).__name__}); put the file there, as "
            "UTF-8 text."
        ) from None


def _each(text: str, lead: str, label: str = "Question: ") -> list[str]:
    """What follows the labelled question and `lead` in each example."""
    parts: list[str] = []
    for example in text.split("\n\n"):
        question, found, rest = example.partition(f"\n{lead}")
        if not found or not question.startswith(label) or "\n" in question:
            first = example.partition("\n")[0]
            raise InputError(
                f"The example {first!r} is no '{label}' line and a '{lead.strip()}' line."
            )
        parts.append(rest)
    return parts


def _refuse(part: str, problem: str | None) -> None:
    raise InputError(f"The example with {part.strip()!r} is not well formed ({problem}).")


def _check_cot(text: str) -> None:
    for part in _each(text, "Answer:"):
        sample = read_answer(part, kind="A2", finished=True)
        if sample.step is None:
            _refuse(part, sample.problem)


def _check_thoughts(text: str) -> None:
    for part in _each(text, "Steps:\n"):
        samples = [read_thought(line, finished=True) for line in part.split("\n")]
        for at, sample in enumerate(samples, start=1):
            if sample.step is None:
                _refuse(part, sample.problem)
            elif (sample.step.answer is not None) != (at == len(samples)):
                _refuse(part, "its last line, and no other, must state the answer")


def _check_rephrase(text: str) -> None:
    for part in _each(text, "Condition 1:", "Problem: "):
        sample = read_rephrasing(part, finished=True)
        if sample.step is None:
            _refuse(part, sample.problem)


def _check_verify(text: str) -> None:
    for part in _each(text, "Answer:"):
        solution, _, word = part.partition(f"\n{RIGHT} ")
        if read_answer(solution, kind="A2", finished=True).step is None or word not in (
            "Yes",
            "No",
        ):
            _refuse(part, f"it must end in '{RIGHT} Yes' or '{RIGHT} No'")


_CHECKS: dict[str, Callable[[str], None]] = {
    "cot": _check_cot,
    "thoughts": _check_thoughts,
    "subquestions": check_subquestions,
    "rephrase": _check_rephrase,
    "verify": _check_verify,
}
