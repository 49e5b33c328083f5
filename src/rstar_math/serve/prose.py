"""What a search found, as text for a reader: the chosen path, and how far a search is."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rstar_math.foreign import plain
from rstar_math.grading.extract import boxed
from rstar_math.search import Choice, Tree
from rstar_math.serve.orders import Order
from rstar_math.steps.grammar import program_output
from rstar_math.types import Step

PIECE = re.compile(r"\s*\S{1,4}|\s+")
"""What counts as a token of text that is shown: up to 4 characters with the space before them. It
is an estimate: models differ, and what programs printed was never sampled."""
_LONGEST_ANSWER = 60
"""Characters of an answer that a line of progress shows."""


@dataclass(frozen=True, slots=True)
class Shown:
    """An answer's text as it is given out."""

    text: str
    tokens: int
    cut: bool
    """Whether it was ended by the most tokens that were asked for."""


def shown(text: str, stop: Sequence[str], most: int | None) -> Shown:
    """The text up to the first stop and to `most` tokens."""
    ends = [at for mark in stop if (at := text.find(mark)) >= 0]
    text = text[: min(ends)] if ends else text
    pieces = PIECE.findall(text)
    if most is not None and len(pieces) > most:
        return Shown("".join(pieces[:most]), most, cut=True)
    return Shown(text, len(pieces), cut=False)


def answer_text(tree: Tree, choice: Choice, limit: str | None = None) -> str:
    """The chosen path: its programs with their output, its words, and the final answer last, in a
    box. Where no path came to an answer, that and why, also the `limit` that ended the search."""
    if choice.node is None or choice.answer is None:
        return plain(_nothing(tree, limit))
    parts = list(_parts(tree.prefix(choice.node)))
    if not parts or boxed(parts[-1]) != choice.answer:
        parts.append(f"The answer is \\boxed{{{choice.answer}}}.")
    return plain("\n\n".join(parts))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a search is."""

    line: str
    """For a person."""
    facts: dict[str, Any] = field(default_factory=dict)
    """For a program: steps, answers, and where one leads answer and share of the votes."""
    news: str = ""
    """What is compared to see whether there is anything new."""


def progress(tree: Tree, choice: Choice | None, seconds: float, order: Order) -> Progress:
    """How far a search is: what was tried, at what rate, and the best answer so far with its share
    of the votes."""
    steps, answers = len(tree) - 1, len(tree.answers())
    rate = tree.cost.sampled_tokens / max(seconds, 1e-9)
    line = (
        f"{order.strategy.name}, {seconds:.1f} s: {_many(steps, 'step')} tried, "
        f"{_many(answers, 'answer')}, {_many(tree.cost.code_failures, 'program')} "
        f"failed, {rate:.0f} tokens/s."
    )
    facts: dict[str, Any] = {"steps": steps, "answers": answers, "answer": None, "share": None}
    if choice is not None and choice.answer is not None:
        facts |= {"answer": plain(choice.answer), "share": round(choice.share, 6)}
        answer = choice.answer
        if len(answer) > _LONGEST_ANSWER:
            answer = f"{answer[:_LONGEST_ANSWER]}…"
        line += f" Best so far: {plain(answer)} ({choice.share:.0%} of the votes)."
    news = f"{steps} {answers} {tree.cost.calls} {facts['share']} {facts['answer']}"
    return Progress(f"{line}\n", facts, news)


def verdict_line(choice: Choice) -> str:
    """What speaks for the answer: the votes, first ones first."""
    if choice.answer is None:
        return "No path came to an answer.\n"
    total = sum(choice.votes.values()) or 1.0
    votes = [f"{plain(a)[:_LONGEST_ANSWER]} {v / total:.0%}" for a, v in choice.votes.items()]
    more = f" and {len(votes) - 5} more" if len(votes) > 5 else ""
    return f"Votes: {', '.join(votes[:5])}{more}.\n"


def _nothing(tree: Tree, limit: str | None) -> str:
    """Why there is no answer, and what to do."""
    tried = f"{_many(len(tree) - 1, 'step')} tried"
    if reasons := ", ".join(f"{count} {reason}" for reason, count in tree.failures().items()):
        tried += f"; paths ended: {reasons}"
    if limit is not None:
        return f"No answer was found before {limit} ended the search ({tried}). Allow more."
    return (
        f"No answer was found ({tried}). Allow a longer search, as with the model rstar-deep, or "
        "put the question in other words."
    )


def _parts(steps: Iterable[Step]) -> Iterable[str]:
    """A path's programs, their output and its words. The thoughts of a program are its comments."""
    block: list[Step] = []
    for step in steps:
        if step.kind in ("step", "code"):
            block.append(step)
            if step.kind == "code":
                yield from _program(block)
                block = []
        elif step.prose.strip():
            yield step.prose.strip()
    yield from _program(block)


def _program(block: Sequence[Step]) -> Iterable[str]:
    """One program and what it printed."""
    if not block:
        return
    yield _fenced("".join(step.text for step in block).strip("\n"), "python")
    runs = [step.execution for step in block if step.execution is not None]
    if output := program_output(runs).rstrip():
        yield f"Output:\n\n{_fenced(output, '')}"


def _fenced(text: str, language: str) -> str:
    """A block of code in Markdown, whatever it holds."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _many(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
