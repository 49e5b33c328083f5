"""Whole solutions as chains of thought: the baselines' policy, and rStar's second model."""

from collections.abc import Sequence
from dataclasses import replace

from rstar_math.config import ActionsConfig, MutualConfig
from rstar_math.grading.extract import extract_answer
from rstar_math.models.policy import charge_lost
from rstar_math.protocols import Completer
from rstar_math.steps.actions import (
    ANSWER_STOPS,
    chain_messages,
    chain_prompt,
    family,
    read_answer,
)
from rstar_math.steps.rendering import Conversation
from rstar_math.types import Question, Step

_OPEN_STOPS = ("\nQuestion:",)
"""Stop strings without examples: nothing taught the model to write a solution without an empty
line in it."""


class ChainPolicy:
    """Proposes whole solutions, each a step of kind "A2" with its answer: few-shot chain of thought
    and, without `shots`, zero-shot by the family's instruction.

    Samples that are cut off or state no answer are counted in the cost (`truncated`, `malformed`)
    and left out; no vote is held, so `confidence` is None. `temperature` is the config's unless
    given. With a `conversation` the model is sent messages in its own chat format. A zero-shot
    sample may hold empty lines, so a model that never stops by itself is cut off at
    `config.solution_tokens`.
    """

    def __init__(
        self,
        completer: Completer,
        config: ActionsConfig,
        *,
        shots: bool = True,
        temperature: float | None = None,
        conversation: Conversation | None = None,
    ) -> None:
        self._completer = completer
        self._conversation = conversation
        self._family = family(config.family)
        self._tokens = config.solution_tokens
        self._shots = shots
        self._temperature = config.temperature if temperature is None else temperature

    async def propose(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[Step]:
        """See `protocols.Policy`; the result may hold equal steps, and is empty after a step, for
        a solution is one."""
        if prefix:
            return []
        prompt, stop = self._request(question)
        completions = await self._completer.complete(
            prompt,
            n=k,
            stop=stop,
            max_tokens=self._tokens,
            temperature=self._temperature,
            seed=seed,
        )
        steps = []
        for c in completions:
            step = read_answer(c.text, kind="A2", finished=c.finished, stops=stop).step
            if step is not None:
                steps.append(replace(step, reasoning=c.reasoning))
        charge_lost(completions, len(completions) - len(steps))
        return steps

    def _request(self, question: Question) -> tuple[str, tuple[str, ...]]:
        """The prompt and its stop strings."""
        if self._conversation is not None:
            messages = chain_messages(self._family, question, shots=self._shots)
            return self._conversation.prompt(messages), self._conversation.stops
        stop = ANSWER_STOPS if self._shots else _OPEN_STOPS
        return chain_prompt(self._family, question, shots=self._shots), stop


class CompletingPeer:
    """A second solver: completes a begun solution after the family's worked examples (rStar's
    discriminator, arXiv:2408.06195, section 3.3)."""

    def __init__(
        self,
        completer: Completer,
        actions: ActionsConfig,
        mutual: MutualConfig,
        conversation: Conversation | None = None,
    ) -> None:
        self._completer = completer
        self._conversation = conversation
        self._family = family(actions.family)
        self._config = mutual

    async def answers(
        self, question: Question, begun: str, n: int, *, seed: int
    ) -> list[str | None]:
        """See `protocols.Peer`. What counts is what the completion itself states; only a statement
        that `begun` left open is read across the cut. Samples that give None are counted in the
        cost (`truncated`, `malformed`)."""
        if self._conversation is None:
            prompt, stop = chain_prompt(self._family, question, begun), tuple(ANSWER_STOPS)
        else:
            messages = chain_messages(self._family, question)
            prompt = self._conversation.prompt(messages, begun.strip())
            stop = self._conversation.stops
        completions = await self._completer.complete(
            prompt,
            n=n,
            stop=stop,
            max_tokens=self._config.tokens,
            temperature=self._config.temperature,
            seed=seed,
        )
        said_before = extract_answer(begun) is not None
        found: list[str | None] = []
        for c in completions:
            answer = extract_answer(c.text) if c.finished else None
            if answer is None and c.finished and not said_before:
                answer = extract_answer(begun.rstrip() + c.text)
            found.append(answer)
        charge_lost(completions, found.count(None))
        return found
