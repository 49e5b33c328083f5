"""Whole solutions: as the baselines' one step, as completions of a begun one, and as judged by the
model itself."""

import asyncio
from collections.abc import Sequence

import pytest

from rstar_math.config import ActionsConfig, MutualConfig
from rstar_math.costs import track_cost
from rstar_math.errors import ConfigError
from rstar_math.policies.completions import ChainDiscriminator, ChainPolicy
from rstar_math.policies.self_evaluation import SolutionVerifierScorer
from rstar_math.prompts.families import chain_prompt, load_action_prompts
from rstar_math.protocols import Discriminator, Policy, Scorer
from rstar_math.testing import ScriptedCompleter
from rstar_math.types import Step
from tests.unit.test_actions import APPLES, LAST, MIXED, REST, THOUGHT

CONFIG = ActionsConfig(solution_tokens=20)
SCHOOL = load_action_prompts("school")


def always(*texts: str) -> ScriptedCompleter:
    return ScriptedCompleter(lambda prompt, n, seed: texts)


def propose(policy: Policy, k: int, prefix: Sequence[Step] = ()) -> list[Step]:
    return asyncio.run(policy.propose(APPLES, prefix, k, seed=7))


def test_a_chain_is_one_step_with_an_answer_and_no_vote() -> None:
    completer = always(
        " 12 - 2 = 10. The answer is 10.\n\nQuestion: And now?",
        " The answer is 9.",
        " Who knows?",
        " word" * 30,
    )
    policy = ChainPolicy(completer, CONFIG)
    with track_cost() as cost:
        steps = propose(policy, 4)
    assert steps == [
        Step(prose="12 - 2 = 10. The answer is 10.", kind="A2", answer="10"),
        Step(prose="The answer is 9.", kind="A2", answer="9"),
    ]
    assert (cost.calls, cost.samples, cost.truncated, cost.malformed) == (1, 4, 1, 1)
    [request] = completer.requests
    assert request.prompt == chain_prompt(SCHOOL, APPLES)
    assert (request.n, request.max_tokens, request.temperature, request.seed) == (4, 20, 0.8, 7)
    assert propose(policy, 4, steps[:1]) == []
    assert len(completer.requests) == 1


def test_without_examples_the_instruction_asks_and_empty_lines_are_kept() -> None:
    completer = always(" First:\n\n12 - 2 = 10.\n\nThe answer is 10.\nQuestion: And now?")
    [step] = propose(ChainPolicy(completer, CONFIG, few_shot=False, temperature=0.0), 1)
    assert (step.prose, step.answer) == ("First:\n\n12 - 2 = 10.\n\nThe answer is 10.", "10")
    [request] = completer.requests
    assert request.prompt == (f"{SCHOOL.instruction}\n\nQuestion: {APPLES.text}\nAnswer:")
    assert request.temperature == 0.0


def test_a_peer_goes_on_with_a_begun_solution() -> None:
    completer = always(" 2 are eaten. The answer is 10.", " Hm.", " word" * 30, "")
    peer: Discriminator = ChainDiscriminator(
        completer, CONFIG, MutualConfig(tokens=25, temperature=0.9)
    )
    with track_cost() as cost:
        found = asyncio.run(peer.complete_answers(APPLES, "He has 12 apples. ", 4, seed=3))
    assert found == ["10", None, None, None]
    assert (cost.truncated, cost.malformed) == (1, 2)
    [request] = completer.requests
    assert request.prompt.endswith(f"Question: {APPLES.text}\nAnswer: He has 12 apples.")
    assert request.prompt.startswith(SCHOOL.cot)
    assert (request.n, request.max_tokens, request.temperature, request.seed) == (4, 25, 0.9, 3)


def test_a_peer_may_be_shown_half_a_statement_or_nothing() -> None:
    peer = ChainDiscriminator(always(" 10."), CONFIG, MutualConfig())
    assert asyncio.run(
        peer.complete_answers(APPLES, "So 12 - 2 = 10. The answer is", 1, seed=3)
    ) == ["10"]
    completer = always(" The answer is 9.")
    peer = ChainDiscriminator(completer, CONFIG, MutualConfig())
    assert asyncio.run(peer.complete_answers(APPLES, "", 1, seed=3)) == ["9"]
    assert completer.requests[0].prompt == chain_prompt(SCHOOL, APPLES)


@pytest.mark.parametrize(
    ("texts", "value"),
    [
        ([" Yes", " yes, it is", " No", " Yes"], 0.5),
        ([" No", " Perhaps"], -1.0),
        ([" Yes", " no"], 0.0),
        ([" Perhaps"], 0.0),
    ],
)
def test_a_model_verifies_its_own_solution(texts: list[str], value: float) -> None:
    completer = always(*texts)
    scorer: Scorer = SolutionVerifierScorer(completer, samples=4)
    with track_cost() as cost:
        scores = asyncio.run(scorer.score(APPLES, [[THOUGHT, REST], [THOUGHT], []]))
    assert scores == [value, 0.0, 0.0]
    [request] = completer.requests
    assert request.prompt.endswith("So 10 are left. The answer is 10.\nIs the answer right?")
    assert (cost.calls, cost.samples, cost.sampled_tokens) == (1, 0, 0)
    assert cost.scorer_tokens > 0
    assert cost.unscorable == (texts == [" Perhaps"])


def test_equal_solutions_are_asked_about_alike() -> None:
    completer = always(" Yes")
    solution = [*MIXED, LAST]
    scores = asyncio.run(SolutionVerifierScorer(completer).score(APPLES, [solution, solution]))
    assert scores == [1.0, 1.0]
    first, second = completer.requests
    assert first == second


def test_an_unknown_family_is_refused_before_anything_is_asked() -> None:
    config = ActionsConfig(prompt_set="nowhere")
    for make in (
        lambda: ChainPolicy(always(), config),
        lambda: ChainDiscriminator(always(), config, MutualConfig()),
        lambda: SolutionVerifierScorer(always(), "nowhere"),
    ):
        with pytest.raises(ConfigError):
            make()
