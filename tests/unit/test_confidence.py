"""Token log-probabilities: their summaries, and their use as score, vote weight and early stop."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import astuple
from math import exp, log
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.confidence import LogprobOptions, Measure, combine, confidence, summarize
from rstar_math.config import SearchConfig
from rstar_math.costs import add_cost
from rstar_math.errors import ModelError
from rstar_math.llm.formats import CHAT, COMPLETIONS, LLAMA_CPP, CompletionRequest, RequestFormat
from rstar_math.search import (
    Choice,
    SearchComponents,
    Tree,
    from_record,
    run_strategy,
    sample_chains,
    to_record,
    votes_of,
)
from rstar_math.search.confidence import ConfidenceScorer, quantile
from rstar_math.search.expansion import merge_equal
from rstar_math.search.strategies import parse_strategies
from rstar_math.search.voting import Vote, by_confidence
from rstar_math.testing import ToyWorld
from rstar_math.types import Cost, Question, Step, TokenStats
from tests.unit.toy import same_text

MEASURES: tuple[Measure, ...] = get_args(Measure)
logprobs = st.lists(st.floats(-20, 0), min_size=1, max_size=40)
stats = st.builds(
    TokenStats,
    st.integers(1, 50),
    *[st.floats(-20, 0)] * 3,
    *[st.floats(0, 9)] * 3,
)


def windows(values: Sequence[float], size: int) -> list[float]:
    """The means of all windows, by definition."""
    size = min(size, len(values))
    return [sum(values[at : at + size]) / size for at in range(len(values) - size + 1)]


@given(logprobs, st.integers(1, 50))
def test_the_summary_of_a_text_is_what_it_says(values: list[float], window: int) -> None:
    found = summarize(values, [], LogprobOptions(window))
    assert found is not None
    assert found.tokens == len(values)
    assert found.mean == pytest.approx(sum(values) / len(values), abs=1e-4)
    assert found.lowest == pytest.approx(min(windows(values, window)), abs=1e-4)
    assert found.tail == pytest.approx(windows(values, window)[-1], abs=1e-4)
    assert found.lowest <= found.tail
    assert found.certainty is None


def test_certainty_by_hand() -> None:
    even, sure = [log(0.5), log(0.5)], [log(0.98), log(0.01), log(0.001)]
    options = LogprobOptions(window=1, alternatives=2)
    found = summarize([log(0.5), log(0.98)], [even, sure], options)
    assert found is not None
    of_sure = -log(2) - (log(0.98) + log(0.01)) / 2  # the third token is beyond K
    assert found.certainty == pytest.approx(of_sure / 2, abs=1e-4)
    assert found.tail_certainty == pytest.approx(of_sure, abs=1e-4)
    assert found.lowest_certainty == 0.0
    assert summarize([], [], options) is None
    endless = summarize([float("-inf")], [], options)
    assert endless is not None
    assert endless.mean == -100.0


@given(st.lists(stats, min_size=1, max_size=6), st.integers(1, 80))
def test_a_path_lies_between_its_steps(steps: list[TokenStats], window: int) -> None:
    path = combine(steps, window)
    assert path is not None
    alone = combine(steps[:1], window)
    assert alone is not None
    assert astuple(alone) == pytest.approx(astuple(steps[0]))
    assert path.tokens == sum(each.tokens for each in steps)
    assert path.lowest == min(each.lowest for each in steps)
    means = [each.mean for each in steps]
    assert min(means) - 1e-9 <= path.mean <= max(means) + 1e-9
    if steps[-1].tokens >= window:
        assert path.tail == pytest.approx(steps[-1].tail)
    assert combine([*steps, TokenStats(1, -1.0, -1.0, -1.0)], window).certainty is None  # type: ignore[union-attr]


@given(st.lists(st.floats(-20, 0), min_size=2, max_size=2, unique=True))
def test_the_map_to_a_confidence_is_monotone_and_bounded(values: list[float]) -> None:
    low, high = sorted(values)
    for measure in MEASURES:
        pair = []
        for value in (low, high):
            certainty = 20 + value
            one = TokenStats(1, value, value, value, certainty, certainty, certainty)
            pair.append(confidence(one, measure))
        assert pair[0] is not None
        assert pair[1] is not None
        assert 0 <= pair[0] <= pair[1] <= 1
    assert confidence(TokenStats(3, -1.0, -1.0, -1.0), "self-certainty") is None


def test_probability_one_half_a_token_is_score_zero() -> None:
    step = Step("x", token_stats=TokenStats(7, log(0.5), log(0.5), log(0.9)))
    question = Question("q", "?")
    for measure, expected in (("mean", 0.0), ("lowest", 0.8)):
        scorer = ConfidenceScorer(SearchConfig(confidence_measure=measure))
        assert asyncio.run(scorer.score(question, [[step]])) == pytest.approx([expected])
    scorer = ConfidenceScorer(SearchConfig(confidence_measure="self-certainty"))
    with pytest.raises(ModelError, match="self-certainty"):
        asyncio.run(scorer.score(question, [[step]]))


REQUEST = CompletionRequest("m", "p", 1, (), 9, 0.7, 1, logprobs=LogprobOptions(2, 2))
POSITIONS = [
    {"token": " 4", "logprob": -0.5, "top_logprobs": [{"logprob": -0.5}, {"logprob": -1.5}]},
    {"token": ".", "logprob": -1.5, "top_logprobs": [{"logprob": -0.5}, {"logprob": -1.5}]},
]
REPLIES: dict[str, tuple[RequestFormat, dict[str, Any], dict[str, Any]]] = {
    "completions": (
        COMPLETIONS,
        {"logprobs": 2},
        {
            "choices": [
                {
                    "text": " 4.",
                    "finish_reason": "stop",
                    "logprobs": {
                        "tokens": [" 4", "."],
                        "token_logprobs": [-0.5, -1.5],
                        "top_logprobs": [{" 4": -0.5, "5": -1.5}, {"!": -0.5, ".": -1.5}],
                    },
                }
            ]
        },
    ),
    "chat": (
        CHAT,
        {"logprobs": True, "top_logprobs": 2},
        {"choices": [{"message": {"content": " 4."}, "logprobs": {"content": POSITIONS}}]},
    ),
    "llama.cpp": (
        LLAMA_CPP,
        {"n_probs": 2},
        {"content": " 4.", "stop_type": "eos", "completion_probabilities": POSITIONS},
    ),
}


@pytest.mark.parametrize("name", REPLIES)
def test_every_dialect_is_asked_and_read(name: str) -> None:
    request_format, fields, reply = REPLIES[name]
    body = request_format.build(REQUEST)
    assert {key: body[key] for key in fields} == fields
    (completion,), _ = request_format.parse(REQUEST, reply)
    expected = summarize([-0.5, -1.5], [[-0.5, -1.5]] * 2, LogprobOptions(2, 2))
    assert completion.token_stats == expected
    plain = CompletionRequest("m", "p", 1, (), 9, 0.7, 1)
    assert not fields.keys() & request_format.build(plain).keys()
    assert request_format.parse(plain, reply)[0][0].token_stats is None


@pytest.mark.parametrize("junk", [None, [], "x", {"token_logprobs": "x"}, {"content": [None, {}]}])
def test_a_reply_without_log_probabilities_has_no_summary(junk: object) -> None:
    choice = {"text": "4", "logprobs": junk}
    (completion,), _ = COMPLETIONS.parse(REQUEST, {"choices": [choice]})
    assert completion.token_stats is None


def test_log_probabilities_are_requested_only_where_they_are_used() -> None:
    assert SearchConfig().logprobs is None
    assert SearchConfig(scorer="confidence").logprobs == LogprobOptions(32, 0)
    tail = SearchConfig(answer="confidence", confidence_measure="tail-certainty")
    assert tail.logprobs == LogprobOptions(32, 5)
    assert SearchConfig(chain_stop="low", confidence_window=7).logprobs == LogprobOptions(7, 0)


def test_equal_texts_are_one_step_whatever_their_log_probabilities() -> None:
    one, other = (Step("a", token_stats=TokenStats(3, x, x, x)) for x in (-0.1, -0.2))
    assert merge_equal([one, other], "text") == [(one, 2)]


def test_a_stored_tree_keeps_the_summaries() -> None:
    tree = Tree(Question("q", "?"))
    for kept in (TokenStats(3, -0.1, -0.2, -0.3), TokenStats(3, -0.1, -0.2, -0.3, 1.0, 0.5, 0.25)):
        tree.add(0, Step("a", answer="1", token_stats=kept))
        last = from_record(to_record(tree)).nodes[-1].step
        assert last is not None
        assert last.token_stats == kept
    assert [vote.confidence for vote in votes_of(tree)] == pytest.approx([exp(-0.1)] * 2)
    lowest = SearchConfig(confidence_measure="lowest-certainty")
    assert [vote.confidence for vote in votes_of(tree, lowest)][1] == pytest.approx(1 - exp(-0.25))


def test_votes_weighted_by_confidence() -> None:
    cast = [
        Vote("a", 1, confidence=0.3),
        Vote("a", 2, confidence=0.3),
        Vote("b", 3, confidence=0.9),
    ]
    choice = asyncio.run(by_confidence(cast, same_text))
    assert choice.answer == "b"
    assert choice.votes == {"b": 0.9, "a": pytest.approx(0.6)}
    unknown = asyncio.run(by_confidence([*cast, Vote("a", 4)], same_text))
    assert unknown.answer == "a"


def test_the_entropy_of_the_answers() -> None:
    assert Choice("a", 1, 1.0, {"a": 3.0}).entropy == 0.0
    assert Choice("a", 1, 0.5, {"a": 2.0, "b": 2.0, "c": 0.0}).entropy == pytest.approx(log(2))
    assert Choice(None, None, 0.0, {}).entropy == 0.0


def test_quantiles_by_hand() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([0.0, 10.0], 0.1) == pytest.approx(1.0)
    assert quantile([5.0], 0.9) == 5.0


class Doubtful:
    """A policy of the toy world whose steps have log-probabilities; some chains are unlikely."""

    def __init__(self, world: ToyWorld) -> None:
        self._policy = world.policy
        self.asked = 0

    async def propose(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[Step]:
        """See `protocols.Policy`."""
        self.asked += 1
        steps = await self._policy.propose(question, prefix, k, seed=seed)
        found = []
        for number, step in enumerate(steps):
            x = -random.Random(f"{seed} {number} {step.text}").choice((0.1, 0.2, 0.3, 3.0))
            kept = TokenStats(len(step.text.split()), x, x, x)
            found.append(Step(step.prose, step.code, step.kind, step.answer, token_stats=kept))
        add_cost(Cost())
        return found


def chains(**options: Any) -> Tree:
    world = ToyWorld(steps=5, right=1.0, slip=0.0, trap=0.0, fails=0.0, dead=0.0)
    tree = Tree(world.problems(1)[0].question)
    parts = SearchComponents(Doubtful(world), world.executor)
    asyncio.run(sample_chains(tree, 30, parts=parts, config=SearchConfig(**options)))
    return tree


def test_chains_that_have_become_unlikely_are_stopped_after_the_warm_up() -> None:
    plain = chains()
    assert plain.failures() == {}
    stopped: dict[str, int] = {}
    for mode in ("high", "low"):
        tree = chains(chain_stop=mode, warmup_chains=10)
        ends = [i for i, node in enumerate(tree) if i and not node.children]
        by_run = {tree.nodes[end].run: tree.nodes[end] for end in ends}
        assert len(by_run) == 30
        assert all(by_run[run].failure is None for run in range(10))
        stopped[mode] = tree.failures().get("unlikely", 0)
        assert tree.cost.sampled_tokens < plain.cost.sampled_tokens or mode == "high"
        # What goes on is never below what was stopped.
        alive = [min(_lows(tree, end)) for end in ends if tree.nodes[end].run >= 10
                 and tree.nodes[end].failure is None]  # fmt: skip
        dead = [_lows(tree, end)[-1] for end in ends if tree.nodes[end].failure]
        assert not alive or not dead or min(alive) >= max(dead)
    assert stopped["low"] > stopped["high"] >= 0
    assert stopped["low"] >= 15


def _lows(tree: Tree, end: int) -> list[float]:
    return [s.token_stats.lowest for s in tree.prefix(end) if s.token_stats is not None]


def test_a_search_by_confidence_needs_no_second_model() -> None:
    world = ToyWorld(steps=3)
    config = SearchConfig(scorer="confidence", candidates=3)
    for name in ("mcts@4", "beam@2", "bon@4", "particles@4"):
        (strategy,) = parse_strategies(name)
        tree = Tree(world.problems(1)[0].question)
        parts = SearchComponents(Doubtful(world), world.executor, ConfidenceScorer(config))
        choice = asyncio.run(run_strategy(tree, strategy, parts, config, group=same_text))
        scores = [node.score for node in tree.nodes[1:] if node.score is not None]
        assert scores
        assert all(-1 <= score <= 1 for score in scores)
        assert tree.cost.scorer_tokens == 0
        assert choice.answer is not None or not tree.answer_nodes()
