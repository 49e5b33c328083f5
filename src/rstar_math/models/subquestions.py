"""A Policy that asks itself sub-questions."""

from collections.abc import Sequence

from rstar_math.config import PolicyConfig
from rstar_math.meter import charge
from rstar_math.protocols import Completer
from rstar_math.steps.subquestions import (
    STOPS,
    opening,
    read_subquestion,
    render_subquestions,
    subquestion_prompt,
)
from rstar_math.types import Cost, Question, Step


class SubQuestionPolicy:
    """Proposes sub-questions with their answers, one of each a step: the actions and states of
    RAP (Hao et al. 2023, arXiv:2305.14992, section 3.1), and rStar's action A3.

    A prefix must consist of such steps. `config.prompt` and `config.answers` mean nothing here:
    the prompt is always few-shot. `tokens` is the most of one sub-question with its answer, by
    default twice `config.step_tokens`, for it is two lines where a code step is one (rStar's code:
    128 and 512). From `depth` steps on the only sub-question proposed is the problem's own, for
    the model to answer, as RAP's code does at its depth limit (there 5); by default there is no
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
        self._tokens = tokens if tokens is not None else 2 * config.step_tokens
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
            read_subquestion(question, begun + c.text, finished=c.finished) for c in completions
        ]
        cut = sum(not c.finished for c in completions)
        charge(Cost(truncated=cut, malformed=sum(s.step is None for s in samples) - cut))
        return [s.step for s in samples if s.step is not None]
