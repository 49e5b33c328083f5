"""Policies from a Completer: code steps, sub-questions, chains of thought; the chain
discriminator."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from rstar_math.config.sections import ActionsConfig, MutualConfig, PolicyConfig
from rstar_math.costs import add_cost
from rstar_math.extraction import extract_answer
from rstar_math.models.prompting import prompting_of, renderer_for
from rstar_math.prompts.action_parsing import ANSWER_STOPS, parse_answer
from rstar_math.prompts.families import chain_messages, chain_prompt, load_action_prompts
from rstar_math.prompts.rendering import END_OF_THINKING, START_OF_THINKING, Conversation, Renderer
from rstar_math.prompts.subquestions import (
    STOPS,
    opening,
    parse_subquestion,
    render_subquestions,
    subquestion_prompt,
)
from rstar_math.protocols import Completer, Completion
from rstar_math.seeding import derive
from rstar_math.types import Cost, Question, Step


class StepPolicy:
    """Proposes code-augmented steps. Samples that are cut off or not well formed are counted in
    the cost (`truncated`, `malformed`) and left out.

    The renderer follows from the configuration and from what the Completer says of itself
    (`models.prompting`), unless one is given.
    """

    def __init__(
        self, completer: Completer, config: PolicyConfig, renderer: Renderer | None = None
    ) -> None:
        self._completer = completer
        self._config = config
        self.renderer = renderer or renderer_for(config, prompting_of(completer))

    async def propose(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[Step]:
        """See `protocols.Policy`; the result may hold equal steps."""
        if prefix and prefix[-1].kind == "code" and self._config.answer_samples is not None:
            k = min(k, self._config.answer_samples)
        samples = []
        read = self.renderer.format.parse_step
        completions = await self._sample(
            question, prefix, k, (self._config.max_step_tokens, self.renderer.stops), seed
        )
        for c in completions:
            step = read(prefix, c.text, finished=c.finished, stop=c.stop).step
            samples.append(None if step is None else _with_reasoning(step, c))
        charge_lost(completions, samples.count(None))
        return [step for step in samples if step is not None]

    async def propose_blocks(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[list[Step]]:
        """Up to `k` candidates that each run to the next point at which a program has to be run, or
        to the answer: one request instead of one a step. The same errors as `propose`."""
        read = self.renderer.format.parse_block
        completions = await self._sample(
            question, prefix, k, (self._config.max_solution_tokens, self.renderer.block_stops), seed
        )
        blocks = []
        for c in completions:
            steps, _ = read(prefix, c.text, finished=c.finished, stop=c.stop)
            if steps:
                blocks.append([_with_reasoning(steps[0], c), *steps[1:]])
        charge_lost(completions, len(completions) - len(blocks))
        return blocks

    async def _sample(
        self,
        question: Question,
        prefix: Sequence[Step],
        k: int,
        end: tuple[int, tuple[str, ...]],
        seed: int,
    ) -> list[Completion]:
        """Continuations of a prefix, each after thoughts of its own where these are allowed; `end`
        is the token limit and the stop strings."""
        max_tokens, stops = end
        temperature = self._config.temperature
        if prefix or not self._config.max_thinking_tokens:
            return await self._completer.complete(
                self.renderer.prompt(question, prefix),
                n=k,
                stop=stops,
                max_tokens=max_tokens,
                temperature=temperature,
                seed=seed,
            )
        thoughts = await self._completer.complete(
            self.renderer.prompt(question, (), START_OF_THINKING),
            n=k,
            stop=("</think>",),
            max_tokens=self._config.max_thinking_tokens,
            temperature=temperature,
            seed=derive(seed, "thinking"),
        )
        counts = Counter(thought.text.strip() for thought in thoughts)
        opening = self.renderer.format.opening(())
        requests = [
            self._completer.complete(
                self.renderer.prompt(
                    question, (), f"{START_OF_THINKING}{thought}{END_OF_THINKING}{opening}"
                ),
                n=count,
                stop=stops,
                max_tokens=max_tokens,
                temperature=temperature,
                seed=derive(seed, number),
            )
            for number, (thought, count) in enumerate(counts.items())
        ]
        answers = await asyncio.gather(*requests)
        return [
            replace(completion, reasoning=thought)
            for thought, completions in zip(counts, answers, strict=True)
            for completion in completions
        ]


def _with_reasoning(step: Step, completion: Completion) -> Step:
    """A step with the thoughts that came before it."""
    if not completion.reasoning:
        return step
    return replace(step, reasoning=completion.reasoning.strip())


def charge_lost(completions: Sequence[Completion], lost: int) -> None:
    """Count samples that were cut off, and those in which no step was found."""
    cut = sum(not completion.finished for completion in completions)
    add_cost(Cost(truncated=cut, malformed=max(0, lost - cut)))


class SubQuestionPolicy:
    """Proposes sub-questions with their answers, one of each a step: the actions and states of
    RAP (Hao et al. 2023, arXiv:2305.14992, section 3.1), and rStar's action A3.

    A prefix must consist of such steps. `config.prompt` and `config.answer_samples` mean nothing
    here: the prompt is always few-shot. `tokens` is the most of one sub-question with its answer,
    by default twice `config.max_step_tokens`, for it is two lines where a code step is one (rStar's
    code: 128 and 512). From `depth` steps on the only sub-question proposed is the problem's own,
    for the model to answer, as RAP's code does at its depth limit (there 5); by default there is no
    such limit. Samples that are cut off or not well formed are counted in the cost (`truncated`,
    `malformed`) and left out.

    Departures: RAP samples sub-questions first and then several answers to each, whose agreement
    is the step's confidence. Here one sample is both, so that an expansion is one request, and
    `confidence` stays None. At the depth limit RAP takes one greedy sample; here all `k` are drawn.
    """

    def __init__(
        self,
        completer: Completer,
        config: PolicyConfig,
        *,
        tokens: int | None = None,
        depth: int | None = None,
    ) -> None:
        self._completer = completer
        self._temperature = config.temperature
        self._tokens = tokens if tokens is not None else 2 * config.max_step_tokens
        self._depth = depth

    async def propose(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[Step]:
        """See `protocols.Policy`; the result may hold equal steps."""
        lead = opening(question, last=self._depth is not None and len(prefix) + 1 >= self._depth)
        completions = await self._completer.complete(
            subquestion_prompt(question) + render_subquestions(prefix) + lead,
            n=k,
            stop=STOPS,
            max_tokens=self._tokens,
            temperature=self._temperature,
            seed=seed,
        )
        begun = lead.removeprefix("Question:")
        samples = [
            parse_subquestion(question, begun + c.text, finished=c.finished) for c in completions
        ]
        cut = sum(not c.finished for c in completions)
        add_cost(Cost(truncated=cut, malformed=sum(s.step is None for s in samples) - cut))
        return [s.step for s in samples if s.step is not None]


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
        self._family = load_action_prompts(config.prompt_set)
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
            step = parse_answer(c.text, kind="A2", finished=c.finished, stops=stop).step
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


class ChainDiscriminator:
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
        self._family = load_action_prompts(actions.prompt_set)
        self._config = mutual

    async def answers(
        self, question: Question, begun: str, n: int, *, seed: int
    ) -> list[str | None]:
        """See `protocols.Discriminator`. What counts is what the completion itself states; only a
        statement that `begun` left open is read across the cut. Samples that give None are counted
        in the cost (`truncated`, `malformed`)."""
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
