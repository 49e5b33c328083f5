"""A Policy made of a Completer and a renderer."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from rstar_math.config import PolicyConfig
from rstar_math.meter import charge
from rstar_math.models.prompting import prompting_of, renderer_for
from rstar_math.protocols import Completer, Completion
from rstar_math.seeding import derive
from rstar_math.steps.rendering import END_OF_THINKING, THINK, Renderer
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
        if prefix and prefix[-1].kind == "code" and self._config.answers is not None:
            k = min(k, self._config.answers)
        samples = []
        read = self.renderer.format.read
        completions = await self._sample(
            question, prefix, k, (self._config.step_tokens, self.renderer.stops), seed
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
        read = self.renderer.format.read_block
        completions = await self._sample(
            question, prefix, k, (self._config.solution_tokens, self.renderer.block_stops), seed
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
        if prefix or not self._config.thinking_tokens:
            return await self._completer.complete(
                self.renderer.prompt(question, prefix),
                n=k,
                stop=stops,
                max_tokens=max_tokens,
                temperature=temperature,
                seed=seed,
            )
        thoughts = await self._completer.complete(
            self.renderer.prompt(question, (), THINK),
            n=k,
            stop=("</think>",),
            max_tokens=self._config.thinking_tokens,
            temperature=temperature,
            seed=derive(seed, "thinking"),
        )
        counts = Counter(thought.text.strip() for thought in thoughts)
        opening = self.renderer.format.opening(())
        requests = [
            self._completer.complete(
                self.renderer.prompt(question, (), f"{THINK}{thought}{END_OF_THINKING}{opening}"),
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
    charge(Cost(truncated=cut, malformed=max(0, lost - cut)))
