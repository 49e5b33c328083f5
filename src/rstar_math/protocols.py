"""Extension interfaces. Any object with these methods works; no base class is needed."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rstar_math.types import Execution, Question, Step, TokenStats, Verdict


class Policy(Protocol):
    """Proposes next steps."""

    async def propose(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[Step]:
        """Return up to `k` candidate next steps after `prefix`; their code is not yet run.

        The list is shorter, or empty, if the model returns fewer usable steps. Equal arguments
        must produce equal requests. Raises `ModelError` if the model cannot be called.
        """
        ...


@runtime_checkable
class BlockPolicy(Protocol):
    """A policy that can also sample several steps in one request, for chains without search."""

    async def propose_blocks(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[list[Step]]:
        """Return up to `k` continuations of `prefix`, each a list of steps.

        A continuation ends where code must be executed, or at the final answer. Otherwise the
        contract is that of `Policy.propose`.
        """
        ...


class Scorer(Protocol):
    """Assigns values to partial solutions. A trained scorer is a process preference model (PPM)."""

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """Return one value in [-1, 1] per prefix, in order.

        The value of a prefix rates its last step, given the steps before it.
        """
        ...


class Executor(Protocol):
    """Executes the code of steps."""

    async def run(self, prefix: Sequence[Step], step: Step) -> Execution:
        """Run `step.code` in the state that the prefix's code produces, and return the result.

        Failing code gives a status, not an exception. Cancelling the caller ends the child process.
        """
        ...


class Verifier(Protocol):
    """Judges answers to one problem. Only a Verifier knows the problem's reference answer."""

    async def judge(self, answer: str) -> Verdict:
        """Return whether the answer equals the reference answer."""
        ...


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled continuation of a prompt."""

    text: str
    """The sampled text, without the stop string that ended it."""
    finished: bool
    """True if the text ended at a stop string or at the end-of-text token; False if it was cut off
    at `max_tokens`."""
    stop: str | None = None
    """The stop string that ended the text; None if the server does not report it."""
    tokens: int | None = None
    """Number of sampled tokens; None if the server does not report it per sample."""
    reasoning: str = ""
    """The thoughts of a reasoning model before its answer; not part of `text`."""
    token_stats: TokenStats | None = None
    """Token log-probabilities; None if they were not requested."""


class Completer(Protocol):
    """Completes text: a model server or an in-process model."""

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
        """Return up to `n` continuations of the prompt, each cut before the first stop string.

        Implementations record their costs with `rstar_math.costs.add_cost`. Raises `ModelError`.
        """
        ...


class Discriminator(Protocol):
    """A second solver that completes partial solutions (rStar, arXiv:2408.06195, section 3.3)."""

    async def complete_answers(
        self, question: Question, partial: str, n: int, *, seed: int
    ) -> list[str | None]:
        """Return the answers of `n` completions of a solution that begins with `partial`.

        With `partial` = "" the discriminator solves the question alone. An answer is None if its
        completion states none or was cut off. Raises `ModelError`.
        """
        ...


AnswerGrouper = Callable[[Sequence[str]], Awaitable[list[int]]]
"""Sorts answers into equivalence classes. Returns one class number per answer, from 0 in order of
first appearance."""
QuestionGrouper = Callable[[Question], AnswerGrouper]
"""Returns the function that groups the answers to a question."""
