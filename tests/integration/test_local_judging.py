"""The embedded model asks itself sub-questions and judges steps: values in range, most samples
well formed. Whether such a small model judges well is not asked."""

import asyncio

from rstar_math.config import ModelConfig, PolicyConfig
from rstar_math.costs import track_cost
from rstar_math.llm.connect import connect
from rstar_math.policies.completions import SubQuestionPolicy
from rstar_math.policies.self_evaluation import SelfEvaluator, SubquestionScorer
from rstar_math.prompts.subquestions import parse_subquestions, render_subquestions, subquestion_of
from rstar_math.types import Execution, ExecutionStatus, Question, Step

SMALL = ModelConfig(concurrency=4, context_tokens=1024)
QUESTION = Question("q", "Ann has 4 boxes of 6 pens. She gives 5 pens away. How many are left?")
PREFIX = [
    Step(
        prose="# Count the pens and take away 5.\n",
        code="left = 4 * 6 - 5\nprint(left)\n",
        kind="code",
        execution=Execution(ExecutionStatus.OK, "19\n"),
    )
]


def test_sub_questions_and_judgements_of_the_embedded_model_can_be_read() -> None:
    async def once() -> None:
        model = await connect(SMALL)
        try:
            policy = SubQuestionPolicy(model, PolicyConfig(max_step_tokens=48), max_depth=2)
            with track_cost() as cost:
                steps = await policy.propose(QUESTION, [], 6, seed=3)
            assert len(steps) + cost.truncated + cost.malformed == 6
            assert len(steps) >= 3
            for step in steps:
                assert parse_subquestions(QUESTION, render_subquestions([step])) == [step]
                assert subquestion_of(step)
            first = next(step for step in steps if step.answer is None)
            ends = await policy.propose(QUESTION, [first], 4, seed=3)
            assert ends
            assert all(step.answer for step in ends)

            with track_cost() as cost:
                useful = await SubquestionScorer(model).score(QUESTION, [[s] for s in steps[:2]])
                checked = await SelfEvaluator(model).score(QUESTION, [PREFIX])
                alone = await SelfEvaluator(model, check=False).score(QUESTION, [[]])
            assert all(-1 <= value <= 1 for value in [*useful, *checked, *alone])
            assert cost.unscorable <= 1
            assert (cost.samples, cost.prompt_tokens, cost.sampled_tokens) == (0, 0, 0)
            assert cost.scorer_tokens > 4 * 300
            assert cost.calls == 4
        finally:
            await model.aclose()

    asyncio.run(once())
