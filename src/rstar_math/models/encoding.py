"""What a preference model is shown of a prefix, and what is left out of one that is too long: the
one rule of training and of every way of scoring."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rstar_math.steps.rendering import PLAIN, Renderer
from rstar_math.types import Question, Step


@dataclass(frozen=True, slots=True)
class Encoding:
    """A prefix as a model reads it."""

    tokens: tuple[int, ...]
    cut: bool = False
    """Whether tokens between the question and the judged step were left out."""


def encode(
    tokenizer: Any,
    question: Question,
    prefix: Sequence[Step],
    *,
    judged: int,
    limit: int,
    renderer: Renderer = PLAIN,
) -> Encoding | None:
    """The tokens of a prefix whose last `judged` steps are to be judged, at most `limit`.

    What does not fit is cut out after the question, oldest first, never from the judged steps; None
    where question and judged steps alone do not fit. Training and scoring both come here.
    """
    whole, asked, before = _texts(renderer, question, prefix, judged)
    tokens = tuple(tokenizer(whole).input_ids)
    if len(tokens) <= limit:
        return Encoding(tokens)
    return _cut(tokens, tokenizer(asked).input_ids, tokenizer(before).input_ids, limit)


async def encode_with(
    tokens_of: Callable[[str], Awaitable[tuple[int, ...]]],
    question: Question,
    prefix: Sequence[Step],
    *,
    limit: int,
    renderer: Renderer = PLAIN,
) -> Encoding | None:
    """As `encode` with one judged step, by a tokenizer that is asked for."""
    whole, asked, before = _texts(renderer, question, prefix, 1)
    tokens = await tokens_of(whole)
    if len(tokens) <= limit:
        return Encoding(tokens)
    return _cut(tokens, await tokens_of(asked), await tokens_of(before), limit)


def _texts(
    renderer: Renderer, question: Question, prefix: Sequence[Step], judged: int
) -> tuple[str, str, str]:
    """The whole text, the question's, and that of all but the judged steps."""
    asked = renderer.before(question)
    before = renderer.solution(prefix[: len(prefix) - judged])
    return asked + renderer.solution(prefix), asked, asked + before


def _cut(
    whole: tuple[int, ...], asked: Sequence[int], before: Sequence[int], limit: int
) -> Encoding | None:
    """The question and as much of the end as fits."""
    room = limit - len(asked)
    if room < len(whole) - len(before) + 1:
        return None
    return Encoding((*asked, *whole[-room:]), cut=True)
