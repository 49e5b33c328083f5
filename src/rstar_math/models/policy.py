"""A Policy made of a Completer and the step grammar."""

from collections.abc import Sequence

from rstar_math.config import PolicyConfig
from rstar_math.meter import charge
from rstar_math.protocols import Completer
from rstar_math.steps import GRAMMAR, few_shot_prompt, trained_prompt
from rstar_math.types import Cost, Question, Step


class StepPolicy:
    """Proposes code-augmented steps. Samples that are cut off or not well formed are counted in
    the cost (`truncated`, `malformed`) and left out."""

    def __init__(self, completer: Completer, config: PolicyConfig) -> None:
        self._completer = completer
        self._config = config
        self._prompt = few_shot_prompt if config.prompt == "few-shot" else trained_prompt

    async def propose(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[Step]:
        """See `protocols.Policy`; the result may hold equal steps."""
        if prefix and prefix[-1].kind == "code" and self._config.answers is not None:
            k = min(k, self._config.answers)
        completions = await self._completer.complete(
            self._prompt(question) + GRAMMAR.render(prefix) + GRAMMAR.opening(prefix),
            n=k,
            stop=GRAMMAR.stops,
            max_tokens=self._config.step_tokens,
            temperature=self._config.temperature,
            seed=seed,
        )
        samples = [GRAMMAR.read(prefix, c.text, finished=c.finished) for c in completions]
        cut = sum(not c.finished for c in completions)
        charge(
            Cost(truncated=cut, malformed=sum(s.step is None for s in samples) - cut),
        )
        return [s.step for s in samples if s.step is not None]
