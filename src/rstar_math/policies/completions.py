"""Policies on a Completer: code steps, sub-questions, chains of thought; the chain
discriminator."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from rstar_math.config.sections import ActionsConfig, MutualConfig, PolicyConfig
from rstar_math.extraction import extract_stated_answer
from rstar_math.models.prompting import prompting_of, renderer_for
from rstar_math.policies.answers import PROGRAM_INSTRUCTION, chain_step, with_answer
from rstar_math.policies.pictures import require_images
from rstar_math.policies.unusable import Rejections
from rstar_math.prompts.action_parsing import ANSWER_STOPS
from rstar_math.prompts.families import chain_messages, chain_prompt, load_action_prompts
from rstar_math.prompts.grammar import FENCED
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
from rstar_math.tasks import Kind
from rstar_math.types import Question, Step


class StepPolicy:
    """Proposes code-augmented steps (rStar-Math, arXiv:2501.04519, section 3.2).

    Truncated and malformed samples are left out, and counted in the cost (`truncated`,
    `malformed`). The default renderer is the one that fits the configuration and the Completer's
    model (`models.prompting`).
    """

    def __init__(
        self, completer: Completer, config: PolicyConfig, renderer: Renderer | None = None
    ) -> None:
        self._completer = completer
        self._config = config
        self.renderer = renderer or renderer_for(config, prompting_of(completer))
        self._renderers = {Kind.MATH: self.renderer}

    def renderer_of(self, question: Question) -> Renderer:
        """The renderer for the question's kind of problem.

        Questions with pictures are sent as messages, whose parts are the pictures. Raises
        `ConfigError` if the Completer sends only text.
        """
        kind = question.kind
        if kind not in self._renderers:
            known = prompting_of(self._completer)
            self._renderers[kind] = renderer_for(self._config, known, kind)
        renderer = self._renderers[kind]
        if not question.images:
            return renderer
        require_images(self._completer)
        plain = renderer.mode == "completion" and self._config.format == "auto"
        step_format = FENCED if plain else renderer.format
        return replace(renderer, mode="messages", template=None, format=step_format)

    async def propose(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[Step]:
        """See `protocols.Policy`. The result may contain equal steps."""
        if prefix and prefix[-1].kind == "code" and self._config.answer_samples is not None:
            k = min(k, self._config.answer_samples)
        steps = []
        renderer = self.renderer_of(question)
        parse = renderer.format.parse_step
        completions = await self._sample(
            question,
            prefix,
            k,
            max_tokens=self._config.max_step_tokens,
            stops=renderer.stops,
            seed=seed,
        )
        rejected = Rejections(lambda: renderer.prompt(question, prefix), len(prefix))
        for c in completions:
            parsed = parse(prefix, c.text, finished=c.finished, stop=c.stop)
            if parsed.step is None:
                rejected.add(c, parsed.problem)
            else:
                steps.append(with_answer(question, prefix, of_completion(parsed.step, c)))
        return steps

    async def propose_blocks(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[list[Step]]:
        """Returns up to `k` lists of steps. Each list ends where a program has to run, or with the
        answer. Sends one request instead of one per step. Raises as `propose` does."""
        renderer = self.renderer_of(question)
        parse = renderer.format.parse_block
        completions = await self._sample(
            question,
            prefix,
            k,
            max_tokens=self._config.max_solution_tokens,
            stops=renderer.block_stops,
            seed=seed,
        )
        blocks = []
        rejected = Rejections(lambda: renderer.prompt(question, prefix), len(prefix))
        for c in completions:
            steps, problem = parse(prefix, c.text, finished=c.finished, stop=c.stop)
            if steps:
                steps = _of_block(steps, c)
                last = with_answer(question, [*prefix, *steps[:-1]], steps[-1])
                blocks.append([*steps[:-1], last])
            else:
                rejected.add(c, problem)
        return blocks

    async def _sample(
        self,
        question: Question,
        prefix: Sequence[Step],
        k: int,
        *,
        max_tokens: int,
        stops: tuple[str, ...],
        seed: int,
    ) -> list[Completion]:
        """Returns `k` continuations of a prefix.

        If the configuration allows thinking, each continuation of the question follows its own
        reasoning.
        """
        temperature, renderer = self._config.temperature, self.renderer_of(question)
        if prefix or not self._config.max_thinking_tokens:
            return await self._completer.complete(
                renderer.prompt(question, prefix),
                n=k,
                stop=stops,
                max_tokens=max_tokens,
                temperature=temperature,
                seed=seed,
            )
        thinking = await self._completer.complete(
            renderer.prompt(question, (), START_OF_THINKING),
            n=k,
            stop=("</think>",),
            max_tokens=self._config.max_thinking_tokens,
            temperature=temperature,
            seed=derive(seed, "thinking"),
        )
        counts = Counter(completion.text.strip() for completion in thinking)
        step_opening = renderer.format.opening(())
        requests = [
            self._completer.complete(
                renderer.prompt(
                    question, (), f"{START_OF_THINKING}{reasoning}{END_OF_THINKING}{step_opening}"
                ),
                n=count,
                stop=stops,
                max_tokens=max_tokens,
                temperature=temperature,
                seed=derive(seed, number),
            )
            for number, (reasoning, count) in enumerate(counts.items())
        ]
        return [
            replace(completion, reasoning=reasoning)
            for reasoning, completions in zip(counts, await asyncio.gather(*requests), strict=True)
            for completion in completions
        ]


def of_completion(step: Step, completion: Completion) -> Step:
    """Returns a step with the reasoning, the tokens and the log-probabilities of its completion."""
    return replace(
        step,
        reasoning=completion.reasoning.strip() or step.reasoning,
        token_stats=completion.token_stats,
        tokens=completion.tokens,
    )


def _of_block(steps: Sequence[Step], completion: Completion) -> list[Step]:
    """Returns the steps of one completion: its reasoning is in the first, its tokens and
    log-probabilities are in the last."""
    reasoning = completion.reasoning.strip() or steps[0].reasoning
    steps = [replace(steps[0], reasoning=reasoning), *steps[1:]]
    last = replace(steps[-1], token_stats=completion.token_stats, tokens=completion.tokens)
    return [*steps[:-1], last]


class SubQuestionPolicy:
    """Proposes steps that are a sub-question with its answer: the actions and states of RAP (Hao et
    al. 2023, arXiv:2305.14992, section 3.1), and rStar's action A3.

    A prefix must consist of such steps. `config.prompt` and `config.answer_samples` have no effect:
    the prompt is always few-shot. `max_tokens` limits one sub-question with its answer. The default
    is twice `config.max_step_tokens`, because this step is two lines and a code step is one
    (rStar's code: 128 and 512). At depth `max_depth` the only sub-question is the problem itself,
    as at the depth limit in RAP's code (there 5); None means no limit. Truncated and malformed
    samples are left out, and counted in the cost (`truncated`, `malformed`).

    Departures: RAP samples sub-questions first and then several answers to each, whose agreement
    is the step's confidence. Here one sample is both, so that an expansion is one request, and
    `confidence` stays None. At the depth limit RAP takes one greedy sample; here all `k` are drawn.
    """

    def __init__(
        self,
        completer: Completer,
        config: PolicyConfig,
        *,
        max_tokens: int | None = None,
        max_depth: int | None = None,
    ) -> None:
        self._completer = completer
        self._temperature = config.temperature
        self._max_tokens = max_tokens if max_tokens is not None else 2 * config.max_step_tokens
        self._max_depth = max_depth

    async def propose(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[Step]:
        """See `protocols.Policy`. The result may contain equal steps."""
        at_limit = self._max_depth is not None and len(prefix) + 1 >= self._max_depth
        start = opening(question, last=at_limit)
        prompt = subquestion_prompt(question) + render_subquestions(prefix) + start
        completions = await self._completer.complete(
            prompt,
            n=k,
            stop=STOPS,
            max_tokens=self._max_tokens,
            temperature=self._temperature,
            seed=seed,
        )
        start = start.removeprefix("Question:")
        steps = []
        rejected = Rejections(lambda: prompt, len(prefix))
        for c in completions:
            parsed = parse_subquestion(question, start + c.text, finished=c.finished)
            if parsed.step is None:
                rejected.add(c, parsed.problem)
            else:
                steps.append(of_completion(parsed.step, c))
        return steps


_ZERO_SHOT_STOPS = ("\nQuestion:",)
"""Stop strings without examples. An empty line is none of them, because no example taught the model
to avoid it."""


class ChainPolicy:
    """Proposes whole solutions. Each is one step of kind "A2" with its answer.

    The prompt is few-shot chain of thought or, with `few_shot=False`, the prompt set's instruction
    alone. `temperature` defaults to the config's. With a `conversation`, the model gets messages in
    its own chat format. Truncated samples and samples without an answer are left out, and counted
    in the cost (`truncated`, `malformed`). There is no vote, so `confidence` is None. A zero-shot
    sample may contain empty lines, so a model that never
    stops by itself is stopped only by `config.solution_tokens`.
    """

    def __init__(
        self,
        completer: Completer,
        config: ActionsConfig,
        *,
        few_shot: bool = True,
        temperature: float | None = None,
        conversation: Conversation | None = None,
    ) -> None:
        self._completer = completer
        self._conversation = conversation
        self._prompts = load_action_prompts(config.prompt_set)
        self._max_tokens = config.solution_tokens
        self._few_shot = few_shot
        self._temperature = config.temperature if temperature is None else temperature

    async def propose(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[Step]:
        """See `protocols.Policy`. The result may contain equal steps. It is empty for a prefix that
        is not empty, since a solution is one step."""
        if prefix:
            return []
        prompt, stop = self._request(question)
        completions = await self._completer.complete(
            prompt,
            n=k,
            stop=stop,
            max_tokens=self._max_tokens,
            temperature=self._temperature,
            seed=seed,
        )
        steps = []
        rejected = Rejections(lambda: prompt)
        for c in completions:
            step = chain_step(question, c, stop)
            if step is None:
                rejected.add(c, "no answer stated")
            else:
                steps.append(of_completion(step, c))
        return steps

    def _request(self, question: Question) -> tuple[str, tuple[str, ...]]:
        """Returns the prompt and its stop strings. Code problems have no worked examples."""
        if question.kind is Kind.CODE:
            conversation = self._conversation
            text = f"{question.shown}\n\n{PROGRAM_INSTRUCTION}"
            if conversation is not None:
                return conversation.prompt([("user", text)]), conversation.stops
            return f"Question: {text}\nAnswer:\n```python\n", ("```\n", *_ZERO_SHOT_STOPS)
        if self._conversation is not None:
            messages = chain_messages(self._prompts, question, shots=self._few_shot)
            return self._conversation.prompt(messages), self._conversation.stops
        stop = ANSWER_STOPS if self._few_shot else _ZERO_SHOT_STOPS
        return chain_prompt(self._prompts, question, shots=self._few_shot), stop


class ChainDiscriminator:
    """rStar's discriminator: a second model that completes partial solutions (arXiv:2408.06195,
    section 3.3). Its prompt contains the prompt set's worked examples."""

    def __init__(
        self,
        completer: Completer,
        actions: ActionsConfig,
        mutual: MutualConfig,
        conversation: Conversation | None = None,
    ) -> None:
        self._completer = completer
        self._conversation = conversation
        self._prompts = load_action_prompts(actions.prompt_set)
        self._config = mutual

    async def complete_answers(
        self, question: Question, partial: str, n: int, *, seed: int
    ) -> list[str | None]:
        """See `protocols.Discriminator`.

        The answer must be in the completion. It may start in `partial` only if `partial` has no
        complete answer. Samples without an answer are counted in the cost (`truncated`,
        `malformed`).
        """
        if self._conversation is None:
            prompt, stop = chain_prompt(self._prompts, question, partial), tuple(ANSWER_STOPS)
        else:
            messages = chain_messages(self._prompts, question)
            prompt = self._conversation.prompt(messages, partial.strip())
            stop = self._conversation.stops
        completions = await self._completer.complete(
            prompt,
            n=n,
            stop=stop,
            max_tokens=self._config.tokens,
            temperature=self._config.temperature,
            seed=seed,
        )
        already_answered = extract_stated_answer(partial) is not None
        answers: list[str | None] = []
        rejected = Rejections(lambda: prompt)
        for c in completions:
            answer = extract_stated_answer(c.text) if c.finished else None
            if answer is None and c.finished and not already_answered:
                answer = extract_stated_answer(partial.rstrip() + c.text)
            answers.append(answer)
            if answer is None:
                rejected.add(c, "no answer stated by the discriminator")
        return answers
