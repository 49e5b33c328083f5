"""Prompts of rStar's actions. Each family is a folder of worked examples for one kind of task."""

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
from rstar_math.files import parse_toml
from rstar_math.prompts.action_parsing import parse_answer, parse_rephrasing, parse_thought
from rstar_math.prompts.subquestions import check_subquestions
from rstar_math.types import Question

VERIFY_QUESTION = "Is the answer right?"
"""The question that follows each solution in the verification examples."""


@dataclass(frozen=True, slots=True)
class ActionPrompts:
    """The prompts for one kind of question. Each text of examples ends with an empty line."""

    name: str
    description: str
    instruction: str
    """Instruction for a solution without examples."""
    chat_instruction: str
    """Instruction for an instruct model; it follows the question in the user message."""
    depth: int
    """Maximum number of steps of a path (rStar: 5; for MATH: 8)."""
    cot: str
    """Complete solutions, for A2, A4 and the discriminator."""
    thoughts: str
    """Solutions with one thought per line, for A1."""
    subquestions: str
    """Solutions with sub-questions, for A3."""
    rephrase: str
    """Rephrased questions, for A5."""
    verify: str
    """Solutions with a verdict, right or wrong."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """Other `.txt` files of the folder by name without suffix. They are not validated.

    Actions from outside the package use them.
    """

    @property
    def digest(self) -> str:
        """A hash of all texts: 16 hexadecimal digits."""
        settings = (self.instruction, self.chat_instruction, str(self.depth))
        text = "\x1f".join((*settings, *self.texts))
        return sha256(text.encode()).hexdigest()[:16]

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts of examples."""
        known = (self.cot, self.thoughts, self.subquestions, self.rephrase, self.verify)
        return (*known, *(f"{name}\x1e{text}" for name, text in sorted(self.extra.items())))


class _ActionPromptsFile(BaseModel):
    """The file `family.toml`."""

    model_config = ConfigDict(extra="forbid")

    description: str
    instruction: str = Field(min_length=1)
    chat_instruction: str = ""
    depth: int = Field(ge=1)


@cache
def load_action_prompts(name: str) -> ActionPrompts:
    """Return a packaged family by name, or the family in a folder. Its examples are validated.

    The folder contains `family.toml`, `cot.txt`, `thoughts.txt`, `subquestions.txt`, `rephrase.txt`
    and `verify.txt`. Raises `ConfigError` for an unknown name or an unreadable file, and
    `InputError` for an invalid example.
    """
    packaged = files("rstar_math.prompts") / "families"
    names = sorted(entry.name for entry in packaged.iterdir() if entry.is_dir())
    folder: Traversable = packaged / name if name in names else Path(name).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f"Unknown prompt family {name!r}, and no such folder exists; use {', '.join(names)} or "
            "the path of a folder with your own prompts."
        )
    settings = _read_settings(folder)
    texts = {kind: _read_examples(folder, kind, check) for kind, check in _CHECKS.items()}
    chat = settings.chat_instruction or settings.instruction
    extra = {
        file.name.removesuffix(".txt"): _read_text(folder, file.name)
        for file in folder.iterdir()
        if file.name.endswith(".txt") and file.name.removesuffix(".txt") not in _CHECKS
    }
    return ActionPrompts(
        name, settings.description, settings.instruction, chat, settings.depth, **texts, extra=extra
    )


def _read_settings(folder: Traversable) -> _ActionPromptsFile:
    text = _read_text(folder, "family.toml")
    try:
        return _ActionPromptsFile.model_validate(parse_toml(text))
    except ValueError as error:
        reason = explain(error).message if isinstance(error, ValidationError) else error
        raise ConfigError(
            f"Invalid family.toml in {folder}: {reason}; it needs a description, an instruction "
            "and a depth of 1 or more."
        ) from None


def _read_examples(folder: Traversable, kind: str, check: Callable[[str], None]) -> str:
    """Return the validated examples of a file, followed by an empty line."""
    text = _read_text(folder, f"{kind}.txt").strip()
    try:
        if not text:
            raise InputError("It contains no example.")
        check(text)
    except InputError as error:
        raise InputError(
            f"{kind}.txt in {folder} cannot be used: {error} For the format, see "
            f"prompts/families/school/{kind}.txt in the package."
        ) from None
    return text + "\n\n"


def _read_text(folder: Traversable, name: str) -> str:
    try:
        return (folder / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{name} in {folder} cannot be read ({type(error).__name__}); it must be a UTF-8 text "
            "file."
        ) from None


def _split_examples(text: str, lead: str, label: str = "Question: ") -> list[str]:
    """Return the text after `lead` in each example.

    Raises `InputError` unless each example is a line that starts with `label`, then `lead`.
    """
    parts: list[str] = []
    for example in text.split("\n\n"):
        question, found, rest = example.partition(f"\n{lead}")
        if not found or not question.startswith(label) or "\n" in question:
            first_line = example.partition("\n")[0]
            raise InputError(
                f"The example {first_line!r} must be a '{label}' line and a '{lead.strip()}' line."
            )
        parts.append(rest)
    return parts


def _reject(example: str, problem: str | None) -> None:
    raise InputError(f"The example with {example.strip()!r} is not well formed ({problem}).")


def _check_cot(text: str) -> None:
    for solution in _split_examples(text, "Answer:"):
        sample = parse_answer(solution, kind="A2", finished=True)
        if sample.step is None:
            _reject(solution, sample.problem)


def _check_thoughts(text: str) -> None:
    for solution in _split_examples(text, "Steps:\n"):
        samples = [parse_thought(line, finished=True) for line in solution.split("\n")]
        for number, sample in enumerate(samples, start=1):
            if sample.step is None:
                _reject(solution, sample.problem)
            elif (sample.step.answer is not None) != (number == len(samples)):
                _reject(solution, "only its last line must state the answer")


def _check_rephrase(text: str) -> None:
    for conditions in _split_examples(text, "Condition 1:", "Problem: "):
        sample = parse_rephrasing(conditions, finished=True)
        if sample.step is None:
            _reject(conditions, sample.problem)


def _check_verify(text: str) -> None:
    for example in _split_examples(text, "Answer:"):
        solution, _, verdict = example.partition(f"\n{VERIFY_QUESTION} ")
        sample = parse_answer(solution, kind="A2", finished=True)
        if sample.step is None or verdict not in ("Yes", "No"):
            _reject(example, f"it must end in '{VERIFY_QUESTION} Yes' or '{VERIFY_QUESTION} No'")


_CHECKS: dict[str, Callable[[str], None]] = {
    "cot": _check_cot,
    "thoughts": _check_thoughts,
    "subquestions": check_subquestions,
    "rephrase": _check_rephrase,
    "verify": _check_verify,
}


def chain_prompt(
    prompts: ActionPrompts, question: Question, partial: str = "", *, shots: bool = True
) -> str:
    """Return the prompt for a complete solution, or for the rest of the solution `partial`.

    Without `shots`, an instruction replaces the worked examples.
    """
    preamble = prompts.cot if shots else f"{prompts.instruction}\n\n"
    partial = partial.strip()
    return f"{preamble}{question_line(question)}Answer:{' ' if partial else ''}{partial}"


def chain_messages(
    prompts: ActionPrompts, question: Question, *, shots: bool = True
) -> list[tuple[str, str]]:
    """Return the prompt for a complete solution as messages for an instruct model.

    The worked examples are turns. Without `shots`, an instruction follows the question. A partial
    solution is the beginning of the assistant's answer.
    """
    if not shots:
        return [("user", f"{question.shown}\n{prompts.chat_instruction}")]
    turns: list[tuple[str, str]] = []
    for example in prompts.cot.strip().split("\n\n"):
        problem, _, answer = example.removeprefix("Question:").partition("\nAnswer:")
        turns += [("user", problem.strip()), ("assistant", answer.strip())]
    return [*turns, ("user", question.shown)]


def question_line(question: Question) -> str:
    """Return the prompt line of a question, with its line break."""
    return f"Question: {question.shown}\n"
