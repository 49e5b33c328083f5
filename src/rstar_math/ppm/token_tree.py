"""Token trees and the prefix cache of a PPM: shared prefixes are computed once.

A radix tree as in SGLang (Zheng et al. 2023, arXiv:2312.07104): each node holds a run of tokens and
their keys and values, (layers, 2, heads, n, d). What was used longest ago goes first.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import count, takewhile
from typing import Any

from rstar_math.prompts.rendering import PLAIN, Renderer
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
    asked = renderer.question_prompt(question)
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


@dataclass(slots=True)
class TokenTree:
    """A trie of token sequences in the order of insertion; parents come before their children."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    """Index of the token before; -1 at the beginning of a sequence."""
    depths: list[int] = field(default_factory=list)
    """Place in the sequence, from 0."""
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, sequence: Sequence[int]) -> list[int]:
        """The indices of a sequence's tokens, in order; those not yet there are appended."""
        at, path = -1, []
        for token in sequence:
            key = (at, token)
            found = self._children.get(key)
            if found is None:
                found = self._children[key] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(at)
                self.depths.append(0 if at < 0 else self.depths[at] + 1)
            at = found
            path.append(at)
        return path


def ancestry(parents: Sequence[int]) -> Any:
    """Which tokens each token attends to: a bool array (L, L), row i true at i's ancestors and i.

    A parent must come before its children.
    """
    import numpy as np

    mask: Any = np.eye(len(parents), dtype=bool)
    for index, parent in enumerate(parents):
        if parent >= 0:
            mask[index] |= mask[parent]
    return mask


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a batch: new tokens, and how many tokens (already run) each of them follows."""

    tokens: Sequence[int]
    parents: Sequence[int]
    depths: Sequence[int]
    past: int = 0


def batch(rows: Sequence[Row], pad: int, device: Any = "cpu") -> dict[str, Any]:
    """Model inputs of B rows: `input_ids` and `position_ids` (B, L), `attention_mask` bool
    (B, 1, L, P + L), where P is the longest past; pasts stand at the right end of the first P
    places. Padding attends to itself alone, so that no softmax is empty."""
    import numpy as np
    import torch

    length = max(len(row.tokens) for row in rows)
    past = max(row.past for row in rows)
    ids: Any = np.full((len(rows), length), pad, dtype=np.int64)
    places: Any = np.zeros((len(rows), length), dtype=np.int64)
    mask: Any = np.zeros((len(rows), 1, length, past + length), dtype=bool)
    mask[:, 0, :, past:] = np.eye(length, dtype=bool)
    for index, row in enumerate(rows):
        n = len(row.tokens)
        ids[index, :n] = row.tokens
        places[index, :n] = np.asarray(row.depths) + row.past
        mask[index, 0, :n, past : past + n] = ancestry(row.parents)
        mask[index, 0, :n, past - row.past : past] = True
    return {
        "input_ids": torch.from_numpy(ids).to(device),
        "position_ids": torch.from_numpy(places).to(device),
        "attention_mask": torch.from_numpy(mask).to(device),
    }


@dataclass(slots=True, eq=False)
class _Run:
    """A run of tokens below another."""

    tokens: tuple[int, ...]
    kept: Any
    above: "_Run | None"
    below: "dict[int, _Run]" = field(default_factory=dict)
    used: int = 0


class PrefixCache:
    """Holds at most `tokens` tokens."""

    def __init__(self, tokens: int) -> None:
        self._room = tokens
        self._root = _Run((), None, None)
        self._clock = count(1)
        self.held = 0
        """Tokens held now."""

    def find(self, sequence: Sequence[int]) -> tuple[int, list[Any]]:
        """How many of a sequence's first tokens are held, and their pieces in order. The pieces
        stay valid whatever is dropped later."""
        at, length, pieces = self._root, 0, []
        now = next(self._clock)
        while (
            run := at.below.get(sequence[length]) if length < len(sequence) else None
        ) is not None:
            same = common(run.tokens, sequence, length)
            run.used = now
            pieces.append(run.kept[..., :same, :])
            length += same
            if same < len(run.tokens):
                break
            at = run
        return length, pieces

    def put(self, sequence: Sequence[int], length: int, kept: Any) -> None:
        """Keep what was computed for a sequence's tokens from `length` on; the tokens before must
        be held, else nothing is kept. Tokens that are held already are not kept twice."""
        at, done = self._root, 0
        now = next(self._clock)
        while done < len(sequence):
            run = at.below.get(sequence[done])
            if run is None:
                if done >= length:
                    self._append(at, sequence, done, kept[..., done - length :, :], now)
                return
            same = common(run.tokens, sequence, done)
            done += same
            if same < len(run.tokens):
                if done == len(sequence):
                    return
                run = self._split(run, same)
            run.used = now
            at = run

    def _append(self, at: _Run, sequence: Sequence[int], done: int, kept: Any, now: int) -> None:
        run = _Run(tuple(sequence[done:]), kept.clone(), at, used=now)
        at.below[run.tokens[0]] = run
        self.held += len(run.tokens)
        self._make_room(now)

    @staticmethod
    def _split(run: _Run, at: int) -> _Run:
        """The first part of a run that is cut in two."""
        assert run.above is not None
        head = _Run(run.tokens[:at], run.kept[..., :at, :].clone(), run.above, used=run.used)
        run.above.below[head.tokens[0]] = head
        run.tokens, run.kept, run.above = run.tokens[at:], run.kept[..., at:, :].clone(), head
        head.below[run.tokens[0]] = run
        return head

    def _make_room(self, now: int) -> None:
        """Drop ends that were not used for longest, but none that is in use just now."""
        while self.held > self._room:
            ends = [run for run in self._runs() if not run.below and run.used < now]
            if not ends:
                return
            ends.sort(key=lambda run: run.used)
            for run in ends[: max(1, len(ends) // 8)]:
                assert run.above is not None
                del run.above.below[run.tokens[0]]
                self.held -= len(run.tokens)

    def _runs(self) -> list[_Run]:
        found, stack = [], list(self._root.below.values())
        while stack:
            run = stack.pop()
            found.append(run)
            stack.extend(run.below.values())
        return found


def common(run: Sequence[int], sequence: Sequence[int], start: int) -> int:
    """How many tokens of a run a sequence goes through, from `start` on."""
    pairs = zip(run, sequence[start : start + len(run)], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
