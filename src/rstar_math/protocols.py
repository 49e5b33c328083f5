"""Extension interfaces (structural typing). Any object with these methods works; no base class is
needed."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rstar_math.types import Execution, Question, Step, Verdict


class Policy(Protocol):
    """Proposes next steps."""

    async def propose(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[Step]:
        """Up to `k` candidate next steps, not yet run; fewer where the model gave fewer, none
        where it has nothing to say. The same arguments mean the same request. Raises `ModelError`
        when the model cannot be asked at all."""
        ...


@runtime_checkable
class BlockPolicy(Protocol):
    """A policy that can also sample several steps at once, for chains that need no search."""

    async def propose_blocks(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[list[Step]]:
        """Up to `k` continuations, each to the next point at which code has to be run or to the
        answer. Otherwise as `Policy.propose`."""
        ...


class Scorer(Protocol):
    """Values prefixes; the trained one is the process preference model (PPM)."""

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """One value in [-1, 1] for each prefix (its last step, in its context), in order."""
        ...


class Executor(Protocol):
    """Runs code."""

    async def run(self, prefix: Sequence[Step], step: Step) -> Execution:
        """What `step.code` did in the state that the prefix's code leaves. Bad code is a status,
        not an exception. Cancelling the caller ends the child process."""
        ...


class Verifier(Protocol):
    """Judges answers; made for one problem, and the only thing that knows its reference."""

    async def judge(self, answer: str) -> Verdict:
        """Whether the answer equals the reference."""
        ...


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled continuation of a prompt."""

    text: str
    """Without the stop string that ended it."""
    finished: bool
    """True where it stopped by itself (stop string, end of text); False where it was cut off at
    `max_tokens`."""
    stop: str | None = None
    """The stop string that ended it, where the server tells."""
    tokens: int | None = None
    """Sampled tokens, where the server tells for each sample."""
    reasoning: str = ""
    """What a reasoning model thought before its answer; not part of `text`."""


class Completer(Protocol):
    """Text in, text out: a model server or an in-process model."""

    async def complete(
        self,
        prompt: str,
        *,
        n: int,
        stop: Sequence[str],
        max_tokens: int,
        temperature: float,
        seed: int,
    ) -> list[Completion]:
        """Up to `n` continuations of the prompt, each ended before the first stop string. What it
        cost goes to `rstar_math.costs`. Raises `ModelError`."""
        ...


class Discriminator(Protocol):
    """A second solver that is shown the beginning of a solution and completes it."""

    async def answers(
        self, question: Question, begun: str, n: int, *, seed: int
    ) -> list[str | None]:
        """The answers of `n` completions of a solution that begins with `begun` ("" for one of its
        own); None for each that states none or was cut off. Raises `ModelError`."""
        ...


AnswerGrouper = Callable[[Sequence[str]], Awaitable[list[int]]]
"""Sorts answers into classes of equal ones: class numbers from 0, in order of first appearance."""
