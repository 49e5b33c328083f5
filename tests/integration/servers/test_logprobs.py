"""Confidence over HTTP: what is requested, and what a server without log-probabilities gets."""

import asyncio
import json
from math import log

import pytest

from rstar_math.confidence import LogprobOptions
from rstar_math.config import Config, load_config
from rstar_math.errors import ModelRejectedError
from rstar_math.llm.client import check_logprobs
from rstar_math.llm.replies import Reply
from rstar_math.llm.workarounds import Workarounds
from rstar_math.protocols import Completion
from rstar_math.solver.solution import Solution
from rstar_math.solver.solver import Solver
from rstar_math.testing import serving
from rstar_math.types import TokenStats
from tests.e2e import adder

SMALL = ["search.candidates=3", "search.rollouts=3", "policy.prompt=easy", "policy.mode=completion"]


def solved(url: str, *settings: str, strategy: str = "mcts@3") -> Solution:
    config: Config = load_config(None, [f"model.url={url}", *SMALL, *settings])

    async def solve() -> Solution:
        async with Solver(config) as solver:
            return await solver.solve("Add 20 and 22.", strategy)

    return asyncio.run(solve())


def unlikely_code(word: str) -> float:
    """Numbers are less probable than other words."""
    return log(0.4) if any(c.isdigit() for c in word) else log(0.9)


@pytest.mark.parametrize("measure", ["mean", "lowest", "self-certainty"])
def test_steps_are_scored_by_the_servers_log_probabilities(measure: str) -> None:
    with serving(adder.answer) as fake:
        fake.logprob = unlikely_code
        settings = ("search.scorer=confidence", f"search.confidence_measure={measure}")
        solution = solved(fake.url, *settings)
        assert {body["logprobs"] for body in fake.requests} == {5 if "self" in measure else 1}
    scores = [node.score for node in solution.tree.nodes[1:]]
    assert len(set(scores)) > 1
    assert all(score is not None and -1 < score < 1 for score in scores)
    assert solution.answer in ("42", "43", "44")


def test_whole_programs_carry_theirs_to_the_vote() -> None:
    with serving(adder.answer) as fake:
        fake.logprob = unlikely_code
        solution = solved(fake.url, "search.answer=confidence", strategy="sc@4")
    assert 0 < sum(solution.choice.votes.values()) < 4
    ends = solution.tree.answer_nodes()
    assert all(solution.tree.nodes[end].step.token_stats for end in ends)  # type: ignore[union-attr]


def test_nothing_is_requested_without_need() -> None:
    with serving(adder.answer) as fake:
        solved(fake.url)
        assert not any("logprobs" in body for body in fake.requests)


def test_a_server_without_them_is_a_sentence() -> None:
    with serving(adder.answer) as fake:
        with pytest.raises(ModelRejectedError, match="log-probabilities"):
            solved(fake.url, "search.scorer=confidence")
        assert len(fake.requests) <= 2, "no request is sent again"


@pytest.mark.parametrize("field", ["logprobs", "top_logprobs", "n_probs"])
def test_a_refused_field_is_left_out(field: str) -> None:
    workarounds = Workarounds("http://server/v1")
    reply = Reply(400, json.dumps({"error": {"message": f"{field} is not supported"}}).encode())
    body = {"prompt": "p", "max_tokens": 5, field: 2}
    assert workarounds.learn(reply, body)
    assert field not in workarounds.apply(body)


def test_a_server_without_alternatives_is_a_sentence() -> None:
    only_sampled = [Completion("x", True, token_stats=TokenStats(1, -1.0, -1.0, -1.0))]
    check_logprobs(only_sampled, LogprobOptions(8), "http://server/v1")
    with pytest.raises(ModelRejectedError, match="confidence_measure"):
        check_logprobs(only_sampled, LogprobOptions(8, alternatives=3), "http://server/v1")
