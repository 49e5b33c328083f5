"""The embedded model thinks in rStar's five actions: most samples are well formed. Whether such a
small model is right is not asked."""

import asyncio

from rstar_math.config import ActionsConfig, GradingConfig, ModelConfig, MutualConfig
from rstar_math.costs import track_cost
from rstar_math.grading import Grader
from rstar_math.llm.connect import connect
from rstar_math.policies.actions import ActionPolicy
from rstar_math.policies.completions import ChainDiscriminator, ChainPolicy
from rstar_math.prompts.actions import allowed_actions
from rstar_math.prompts.families import load_action_prompts
from rstar_math.types import Question, Step

SMALL = ModelConfig(concurrency=16, context_tokens=1024)
QUESTION = Question("q", "Ann has 4 boxes of 6 pens. She gives 5 pens away. How many are left?")
CONFIG = ActionsConfig(
    votes=3,
    sub_votes=2,
    thought_tokens=64,
    question_tokens=48,
    answer_tokens=96,
    solution_tokens=128,
)
ASKED = Step(
    prose="How many pens has Ann at first?\nAnswer: She has 4 * 6 = 24 pens. The answer is 24.",
    kind="A3",
    confidence=1.0,
)


def test_the_embedded_model_proposes_steps_of_all_actions() -> None:
    async def once() -> None:
        model = await connect(SMALL)
        try:
            async with Grader(GradingConfig(workers=1)) as grader:
                policy = ActionPolicy(model, CONFIG, group=grader.group, max_depth=5)
                for prefix in ((), (ASKED,)):
                    with track_cost() as cost:
                        steps = await policy.propose(QUESTION, prefix, 2, seed=3)
                    kinds = {step.kind for step in steps}
                    assert kinds <= set(allowed_actions(prefix, CONFIG.enabled, depth=5))
                    assert {"A1", "A2", "A3"} <= kinds
                    assert ("A4" in kinds) is bool(prefix)
                    assert cost.truncated + cost.malformed <= cost.samples / 4
                    for step in steps:
                        assert step.answer is None or step.confidence is not None
            with track_cost() as cost:
                chains = await ChainPolicy(model, CONFIG).propose(QUESTION, (), 4, seed=3)
            assert len(chains) + cost.truncated + cost.malformed == 4
            peer = ChainDiscriminator(model, CONFIG, MutualConfig(tokens=64))
            begun = "She has 4 * 6 = 24 pens. She gives 5 away, so 24 - 5 ="
            found = await peer.complete_answers(QUESTION, begun, 4, seed=3)
            assert "19" in found
        finally:
            await model.aclose()

    asyncio.run(once())


def test_the_prompts_of_the_package_leave_room_in_a_small_context() -> None:
    """The examples of word problems and of commonsense are at most 650 tokens, of
    competitions 800."""

    async def once() -> None:
        model = await connect(SMALL)
        try:
            for name, most in (("school", 650), ("yesno", 650), ("competition", 800)):
                each = load_action_prompts(name)
                for text in (
                    each.cot,
                    each.thoughts,
                    each.subquestions,
                    each.rephrase,
                    each.verify,
                ):
                    with track_cost() as cost:
                        await model.complete(
                            text, n=1, stop=(), max_tokens=1, temperature=0.0, seed=0
                        )
                    assert 0 < cost.prompt_tokens <= most, (name, text[:80], cost)
        finally:
            await model.aclose()

    asyncio.run(once())
