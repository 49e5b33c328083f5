"""Prompts of rStar's actions: one folder of worked examples per kind of task."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rstar_math.config.loading import explain
from rstar_math.errors import ConfigError, InputError
from rstar_math.prompts.action_parsing import parse_answer, parse_rephrasing, parse_thought
from rstar_math.prompts.subquestions import check_subquestions
from rstar_math.types import Question

RIGHT = "Is the answer right?"
"""What the examples of a solution's check ask after it."""


@dataclass(frozen=True, slots=True)
class ActionPrompts:
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
    """Whole solutions, for A2, A4 and the discriminator."""
    thoughts: str
    """Solutions with one thought a line, for A1."""
    subquestions: str
    """Solutions by sub-questions, for A3."""
    rephrase: str
    """Rephrased questions, for A5."""
    verify: str
    """Solutions judged right or wrong."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """Other `.txt` files of the folder by their names without the ending, for actions from outside
    the package. They are not checked."""

    @property
    def digest(self) -> str:
        """Identifies the texts: 16 hexadecimal digits."""
        settings = (self.instruction, self.chat_instruction, str(self.depth))
        text = "\x1f".join((*settings, *self.texts))
        return sha256(text.encode()).hexdigest()[:16]

    @property
    def texts(self) -> tuple[str, ...]:
        """All examples."""
        known = (self.cot, self.thoughts, self.subquestions, self.rephrase, self.verify)
        return (*known, *(f"{name}\x1e{text}" for name, text in sorted(self.extra.items())))


class _ActionPromptsFile(BaseModel):
    """`family.toml`."""

    model_config = ConfigDict(extra="forbid")

    description: str
    instruction: str = Field(min_length=1)
    chat_instruction: str = ""
    depth: int = Field(ge=1)


@cache
def load_action_prompts(name: str) -> ActionPrompts:
    """The family of a name that comes with the package, or of a folder's path, its examples
    checked against the grammar.

    Such a folder holds `family.toml`, `cot.txt`, `thoughts.txt`, `subquestions.txt`,
    `rephrase.txt` and `verify.txt`. Raises `ConfigError` for an unknown name and a file that is
    missing or cannot be read, `InputError` for an example that is not well formed.
    """
    shipped = files("rstar_math.prompts") / "families"
    names = sorted(each.name for each in shipped.iterdir() if each.is_dir())
    folder: Traversable = shipped / name if name in names else Path(name).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f"There is no family of prompts called {name!r} and no such folder; take "
            f"{', '.join(names)} or the path of a folder with prompts of your own."
        )
    card = _read_card(folder)
    texts = {kind: _examples(folder, kind, check) for kind, check in _CHECKS.items()}
    chat = card.chat_instruction or card.instruction
    extra = {
        file.name.removesuffix(".txt"): _text(folder, file.name)
        for file in folder.iterdir()
        if file.name.endswith(".txt") and file.name.removesuffix(".txt") not in _CHECKS
    }
    return ActionPrompts(
        name, card.description, card.instruction, chat, card.depth, **texts, extra=extra
    )


def _read_card(folder: Traversable) -> _ActionPromptsFile:
    text = _text(folder, "family.toml")
    try:
        return _ActionPromptsFile.model_validate(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        what = explain(error).message if isinstance(error, ValidationError) else error
        raise ConfigError(
            f"family.toml in {folder}: {what}; it needs a description, an instruction and a depth "
            "of 1 or more."
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
        sample = parse_answer(part, kind="A2", finished=True)
        if sample.step is None:
            _refuse(part, sample.problem)


def _check_thoughts(text: str) -> None:
    for part in _each(text, "Steps:\n"):
        samples = [parse_thought(line, finished=True) for line in part.split("\n")]
        for at, sample in enumerate(samples, start=1):
            if sample.step is None:
                _refuse(part, sample.problem)
            elif (sample.step.answer is not None) != (at == len(samples)):
                _refuse(part, "its last line, and no other, must state the answer")


def _check_rephrase(text: str) -> None:
    for part in _each(text, "Condition 1:", "Problem: "):
        sample = parse_rephrasing(part, finished=True)
        if sample.step is None:
            _refuse(part, sample.problem)


def _check_verify(text: str) -> None:
    for part in _each(text, "Answer:"):
        solution, _, word = part.partition(f"\n{RIGHT} ")
        if parse_answer(solution, kind="A2", finished=True).step is None or word not in (
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


def chain_prompt(
    family: ActionPrompts, question: Question, begun: str = "", *, shots: bool = True
) -> str:
    """Asks for a whole solution, or for the rest of one that is begun; without `shots` by an
    instruction in the place of examples."""
    lead = family.cot if shots else f"{family.instruction}\n\n"
    begun = begun.strip()
    return f"{lead}{question_line(question)}Answer:{' ' if begun else ''}{begun}"


def chain_messages(
    family: ActionPrompts, question: Question, *, shots: bool = True
) -> list[tuple[str, str]]:
    """The same as messages for an instruct model: the examples are turns; without `shots` an
    instruction follows the question. A begun solution is the beginning of the answer."""
    if not shots:
        return [("user", f"{question.text.strip()}\n{family.chat_instruction}")]
    turns: list[tuple[str, str]] = []
    for example in family.cot.strip().split("\n\n"):
        asked_, _, answer = example.removeprefix("Question:").partition("\nAnswer:")
        turns += [("user", asked_.strip()), ("assistant", answer.strip())]
    return [*turns, ("user", question.text.strip())]


def question_line(question: Question) -> str:
    """A question as the prompts pose it, with its newline."""
    return f"Question: {question.text.strip()}\n"
