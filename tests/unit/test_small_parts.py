"""Seeds, meters, errors, strategies and figures."""

import asyncio
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math import errors
from rstar_math.costs import add_cost, as_scorer_cost, reclassify_cost, track_cost
from rstar_math.evaluation.metrics import summarize, wilson
from rstar_math.runs.results import Result
from rstar_math.search import Choice
from rstar_math.search.strategies import STRATEGIES, Strategy, parse_strategies
from rstar_math.seeding import derive
from rstar_math.types import Cost, Verdict


@given(st.integers(), st.lists(st.integers() | st.text()))
def test_seeds_are_31_bit_and_depend_on_every_part(seed: int, parts: list[int | str]) -> None:
    assert 0 <= derive(seed, *parts) < 2**31
    assert derive(seed, *parts, 1) != derive(seed, *parts, "1")


def test_seeds_are_the_same_on_every_machine() -> None:
    assert derive(0, "gsm8k/test/7", 3) == 990466852


def test_meters_nest_and_do_not_mix_between_tasks() -> None:
    async def work(calls: int) -> int:
        with track_cost() as inner:
            for _ in range(calls):
                await asyncio.sleep(0)
                add_cost(Cost(calls=1))
        return inner.calls

    async def both() -> tuple[list[int], int]:
        with track_cost() as outer:
            return list(await asyncio.gather(work(2), work(5))), outer.calls

    parts, whole = asyncio.run(both())
    assert (parts, whole) == ([2, 5], 7)
    add_cost(Cost(calls=1))


def test_a_block_can_be_billed_as_something_else() -> None:
    with track_cost() as outer:
        add_cost(Cost(calls=1, samples=4, prompt_tokens=10, sampled_tokens=8))
        with reclassify_cost(as_scorer_cost) as inner, track_cost() as innermost:
            add_cost(
                Cost(calls=2, samples=3, prompt_tokens=100, cached_tokens=90, sampled_tokens=6)
            )
            assert outer.calls == 1
        add_cost(Cost(calls=1))
    assert inner == innermost
    assert inner.sampled_tokens == 6
    policy = Cost(calls=4, samples=4, prompt_tokens=10, sampled_tokens=8)
    policy.add(Cost(scorer_tokens=106))
    assert outer == policy


def test_rebilling_nests_and_keeps_what_is_already_a_scorers() -> None:
    with track_cost() as outer, reclassify_cost(as_scorer_cost), reclassify_cost(as_scorer_cost):
        add_cost(Cost(prompt_tokens=5, sampled_tokens=2, scorer_tokens=1, retries=3, unscorable=1))
    assert outer == Cost(scorer_tokens=8, retries=3, unscorable=1)


def test_a_block_that_fails_or_is_cancelled_is_billed_for_what_it_used() -> None:
    def fail() -> None:
        with reclassify_cost(as_scorer_cost):
            add_cost(Cost(sampled_tokens=3))
            raise errors.ModelError("Enough.")

    with track_cost() as failed, pytest.raises(errors.ModelError):
        fail()
    assert failed == Cost(scorer_tokens=3)

    async def work() -> Cost:
        async def judge(started: asyncio.Event) -> None:
            with reclassify_cost(as_scorer_cost):
                add_cost(Cost(sampled_tokens=4))
                started.set()
                await asyncio.sleep(3600)

        with track_cost() as cost:
            started = asyncio.Event()
            task = asyncio.create_task(judge(started))
            await started.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return cost

    assert asyncio.run(work()) == Cost(scorer_tokens=4)


def test_concurrent_blocks_do_not_mix_their_bills() -> None:
    async def part(tokens: int, *, judged: bool) -> None:
        for _ in range(tokens):
            await asyncio.sleep(0)
            if judged:
                with reclassify_cost(as_scorer_cost):
                    await asyncio.sleep(0)
                    add_cost(Cost(sampled_tokens=1))
            else:
                add_cost(Cost(sampled_tokens=1))

    async def both() -> Cost:
        with track_cost() as cost:
            await asyncio.gather(part(5, judged=True), part(7, judged=False))
        return cost

    assert asyncio.run(both()) == Cost(scorer_tokens=5, sampled_tokens=7)


def test_every_error_crosses_a_process_border_and_has_an_exit_code() -> None:
    kinds = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert len(kinds) > 8
    for kind in kinds:
        back = pickle.loads(pickle.dumps(kind("A sentence.")))
        assert type(back) is kind
        assert str(back) == "A sentence."
        assert kind.exit_code in (1, 2)
        assert kind.__name__ in (errors.__doc__ or "")


def test_strategies_are_read_and_written_alike() -> None:
    found = parse_strategies("greedy, sc@4,mcts,mcts@32")
    assert found == [
        Strategy("greedy"), Strategy("sc", 4), Strategy("mcts"), Strategy("mcts", 32),
    ]  # fmt: skip
    assert [s.name for s in found] == ["greedy", "sc@4", "mcts", "mcts@32"]
    assert parse_strategies("sc") == [Strategy("sc", 8)]


def test_a_strategy_name_may_contain_digits_and_underscores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("mcts2", "best_of"):
        monkeypatch.setitem(STRATEGIES, name, STRATEGIES["mcts"])
    found = parse_strategies("mcts2,mcts@2,mcts2@3x4,best_of,mctsx4")
    assert [(s.kind, s.size, s.runs) for s in found] == [
        ("mcts2", None, None),
        ("mcts", 2, None),
        ("mcts2", 3, 4),
        ("best_of", None, None),
        ("mcts", None, 4),
    ]


@pytest.mark.parametrize(
    "text", ["", "mcts2", "beams", "sc@", "sc@0", "greedy@2", "mcts,mcts", "sc@-1"]
)
def test_a_wrong_strategy_is_refused(text: str) -> None:
    with pytest.raises(errors.ConfigError):
        parse_strategies(text)


def test_the_wilson_interval_by_hand() -> None:
    low, high = wilson(10, 50)
    assert (round(low, 4), round(high, 4)) == (0.1124, 0.3304)
    assert wilson(0, 20)[0] == 0.0
    assert wilson(20, 20)[1] == pytest.approx(1.0)


def test_a_summary_counts_what_it_is_given() -> None:
    def result(verdict: Verdict | None, answer: str | None) -> Result:
        choice = Choice(answer, None, 0.0, {})
        return Result("p", "mcts", choice, verdict, Cost(calls=2, seconds=1.5), {"too deep": 1})

    rows = [
        result(Verdict.RIGHT, "1"),
        result(Verdict.WRONG, None),
        result(Verdict.UNKNOWN, "x"),
        result(None, "1"),
    ]
    summary = summarize("mcts", rows)
    assert (summary.problems, summary.graded, summary.right) == (4, 3, 1)
    assert (summary.unknown, summary.unanswered) == (1, 1)
    assert summary.accuracy == pytest.approx(1 / 3)
    assert (summary.cost.calls, summary.cost.seconds) == (8, 6.0)
    assert summary.failures == {"too deep": 4}
    assert summary.as_json()["cost"]["calls"] == 8
    assert summarize("mcts", []).accuracy is None
