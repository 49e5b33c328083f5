"""Keys and values of token prefixes that a model has run, kept for what follows them.

A radix tree as in SGLang (Zheng et al. 2023, arXiv:2312.07104): each node holds a run of tokens and
their keys and values, (layers, 2, heads, n, d). What was used longest ago goes first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count, takewhile
from typing import Any


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
