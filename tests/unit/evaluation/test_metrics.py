"""Metrics against hand computation, against a second implementation and against simulation."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rstar_math.errors import ConfigError
from rstar_math.evaluation.metrics import (
    Attempt,
    maj_at_k,
    mean_cost,
    mean_over_subsets,
    pass_at_k,
    rule_at_k,
    scorer_at_k,
    summarize,
    top_of_runs,
    weighted_vote,
    wilson,
)
from rstar_math.evaluation.statistics import (
    bootstrap,
    bootstrap_seeds,
    compare,
    detectable,
    detectable_unpaired,
    mcnemar,
)
from rstar_math.runs.results import Result
from rstar_math.search import Choice
from rstar_math.types import Cost, Verdict


def attempts_of(text: str) -> list[Attempt]:
    """A letter an answer, "r" the right one, "-" none."""
    return [Attempt(None) if c == "-" else Attempt(ord(c), c == "r") for c in text]


answers = st.text("rab-", min_size=1, max_size=9).map(attempts_of)
valued = st.lists(
    st.builds(
        lambda c, v: Attempt(None if c == "-" else ord(c), c == "r", v),
        st.sampled_from("rab-"),
        st.sampled_from([None, -0.5, 0.0, 0.25, 1.0]),
    ),
    min_size=1,
    max_size=8,
)


def test_pass_at_k_by_hand() -> None:
    assert pass_at_k(4, 1, 1) == 0.25
    assert pass_at_k(4, 1, 2) == 0.5
    assert pass_at_k(5, 2, 3) == pytest.approx(1 - 1 / 10)
    assert pass_at_k(5, 0, 5) == 0
    assert pass_at_k(5, 4, 2) == 1
    with pytest.raises(ConfigError, match="k = 6"):
        pass_at_k(5, 2, 6)


@given(st.integers(1, 12), st.data())
def test_pass_at_k_is_the_share_of_choices_with_a_right_one(n: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, n))
    k = data.draw(st.integers(1, n))
    chosen = list(combinations([True] * right + [False] * (n - right), k))
    assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, chosen)) / len(chosen))


def test_pass_at_k_is_unbiased_by_simulation() -> None:
    """Its mean over many sets of n attempts is the truth, 1 - (1 - p)^k; that of the plain
    1 - (1 - right / n)^k is not."""
    rng = np.random.default_rng(5)
    n, k, p = 10, 4, 0.15
    counts = rng.binomial(n, p, 40_000)
    truth = 1 - (1 - p) ** k
    ours = np.mean([pass_at_k(n, int(c), k) for c in counts])
    plain = np.mean(1 - (1 - counts / n) ** k)
    assert abs(ours - truth) < 0.004
    assert abs(plain - truth) > 0.03


def by_counting(chosen: Sequence[Attempt]) -> float:
    """The majority, equal ones sharing, by another road."""
    votes = Counter(a.group for a in chosen if a.group is not None)
    top = max(votes.values(), default=0)
    leaders = [group for group, count in votes.items() if count == top]
    return leaders.count(ord("r")) / len(leaders) if leaders else 0.0


@given(answers, st.data())
def test_maj_at_k_is_the_mean_over_all_choices(found: list[Attempt], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(found)))
    assert maj_at_k(found, k) == pytest.approx(mean_over_subsets(found, k, by_counting))


def test_maj_at_k_by_hand_and_by_simulation() -> None:
    found = attempts_of("rrab")
    assert maj_at_k(found, 1) == 0.5
    assert maj_at_k(found, 4) == 1
    # Of the 4 choices of 3, two are r r x (right), two are r a b (a third each).
    assert maj_at_k(found, 3) == pytest.approx((2 + 2 / 3) / 4)
    many = attempts_of("r" * 20 + "a" * 18 + "b" * 14 + "cdefghij" + "-" * 4)
    rng = random.Random(1)
    drawn = [by_counting(rng.sample(many, 16)) for _ in range(20_000)]
    assert maj_at_k(many, 16) == pytest.approx(sum(drawn) / len(drawn), abs=0.012)


def by_best(chosen: Sequence[Attempt]) -> float:
    """The right share of those that no other beats."""
    keys = [(a.group is not None, a.value is not None, a.value or 0.0) for a in chosen]
    best = [a for a, key in zip(chosen, keys, strict=True) if key == max(keys)]
    return sum(a.right and a.group is not None for a in best) / len(best)


@given(valued, st.data())
def test_scorer_at_k_is_the_mean_over_all_choices_where_values_differ(
    found: list[Attempt], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(found)))
    apart = [
        Attempt(a.group, a.right and a.group is not None, 0.1 * i) for i, a in enumerate(found)
    ]
    assert scorer_at_k(apart, k) == pytest.approx(mean_over_subsets(apart, k, by_best))
    assert scorer_at_k(found, len(found)) == pytest.approx(by_best(found))


def test_scorer_at_k_by_hand() -> None:
    found = [Attempt(1, True, 0.9), Attempt(2, False, 0.5), Attempt(3, False, 0.1), Attempt(None)]
    assert scorer_at_k(found, 1) == 0.25
    assert scorer_at_k(found, 2) == 0.5
    assert scorer_at_k(found, 4) == 1


def test_weighted_votes_and_the_top_of_runs_by_hand() -> None:
    right, wrong = Attempt(1, True, 0.9), Attempt(2, False, -0.2)
    assert weighted_vote([right, wrong, wrong]) == 1  # 0.95 against 0.8
    assert weighted_vote([right, wrong, wrong, wrong]) == 0  # against 1.2
    assert weighted_vote([Attempt(None)]) == 0
    runs = [Attempt(2, False, 0.9), Attempt(1, True, 0.8), Attempt(1, True, 0.7)]
    runs += [Attempt(2, False, 0.1), Attempt(2, False, 0.0), Attempt(None)]
    assert top_of_runs(runs, keep=3) == 1
    assert top_of_runs(runs, keep=2) == 0  # one each: the higher value
    assert top_of_runs(runs, keep=6) == 0


@given(valued, st.data())
def test_the_weighted_vote_stays_below_its_ceiling(
    found: list[Attempt], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(found)))
    right = sum(a.right for a in found)
    drawn = rule_at_k(found, k, weighted_vote, draws=5)
    assert drawn <= pass_at_k(len(found), right, k) + 1e-12
    if comb(len(found), k) <= 5:
        assert drawn == pytest.approx(mean_over_subsets(found, k, weighted_vote))


def test_too_many_choices_are_drawn_by_a_seed() -> None:
    found = attempts_of("r" * 20 + "a" * 18)
    drawn = mean_over_subsets(found, 9, by_counting, seed=3)
    assert drawn == mean_over_subsets(found, 9, by_counting, seed=3)
    assert drawn == pytest.approx(maj_at_k(found, 9), abs=0.04)


def test_bootstrap_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    values = (rng.random(200) < 0.3).astype(float)
    ours = bootstrap(values.tolist())
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, rng=1)
    assert ours is not None
    assert ours[0] == pytest.approx(theirs.confidence_interval.low, abs=0.006)
    assert ours[1] == pytest.approx(theirs.confidence_interval.high, abs=0.006)
    assert ours == bootstrap(values.tolist())
    assert bootstrap([1.0]) is None


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(300):
        values = (rng.random(150) < 0.4).astype(float).tolist()
        low, high = bootstrap(values, resamples=600, seed=trial) or (0.0, 0.0)
        hits += low <= 0.4 <= high
    assert 0.91 <= hits / 300 <= 0.985


def test_seeds_widen_an_interval_by_their_own_chance() -> None:
    """Each problem is right half of the time under any seed: all the spread is the seeds'."""
    rng = np.random.default_rng(4)
    one = [[float(x)] for x in rng.random(100) < 0.5]
    five = [[float(x) for x in row] for row in rng.random((100, 5)) < 0.5]
    wide, narrow = bootstrap_seeds(one), bootstrap_seeds(five)
    assert wide is not None
    assert narrow is not None
    # sqrt(p q / n) of 100, and of 500 draws resampled twice over: about sqrt(1.8 / 5) of it.
    ratio = (narrow[1] - narrow[0]) / (wide[1] - wide[0])
    assert 0.5 < ratio < 0.7
    ragged = bootstrap_seeds([[1.0], [1.0, 1.0, 1.0], [1.0, 1.0]])
    assert ragged == (1.0, 1.0)


def test_mcnemar_agrees_with_scipys_binomial_test() -> None:
    for a, b in [(0, 0), (1, 0), (3, 9), (10, 10), (40, 22), (0, 12)]:
        theirs = stats.binomtest(a, a + b, 0.5).pvalue if a + b else 1.0
        assert mcnemar(a, b) == pytest.approx(theirs)
        assert mcnemar(a, b) == mcnemar(b, a)


def test_a_comparison_by_hand() -> None:
    first = [True, True, False, False, True, False]
    second = [True, False, True, True, True, True]
    found = compare(first, second)
    assert (found.only_first, found.only_second, found.problems) == (1, 3, 6)
    assert found.difference == pytest.approx(2 / 6)
    assert found.p == pytest.approx(2 * 5 / 16)
    assert found.interval is not None
    assert found.interval[0] <= found.difference <= found.interval[1]
    assert found.detectable is not None
    assert found.detectable > 0.8  # six problems show next to nothing
    assert compare([True], [False]).detectable is None
    with pytest.raises(ConfigError, match="cannot be paired"):
        compare(first, second[:-1])


@pytest.mark.parametrize(("n", "disagreeing"), [(150, 0.3), (500, 0.2), (1319, 0.1)])
def test_what_is_called_detectable_is_detected(n: int, disagreeing: float) -> None:
    """The exact test on simulated results finds that difference about 80 % of the time."""
    gap = detectable(n, disagreeing)
    assert gap is not None
    rng = np.random.default_rng(9)
    better = rng.multinomial(
        n,
        [(disagreeing + gap) / 2, (disagreeing - gap) / 2, 1 - disagreeing],
        600,
    )
    found = np.mean([mcnemar(int(a), int(b)) < 0.05 for a, b, _ in better])
    assert 0.70 < found < 0.86
    assert detectable(4 * n, disagreeing) == pytest.approx(gap / 2, rel=0.1)


def test_thirty_problems_show_next_to_nothing() -> None:
    assert detectable(30, 0.2) == pytest.approx(0.241, abs=0.001)
    assert detectable(3, 0.2) is None
    assert detectable_unpaired(30) == pytest.approx(0.362, abs=0.001)
    z = stats.norm.ppf
    assert detectable_unpaired(1319, 0.9) == pytest.approx(
        (z(0.975) + z(0.8)) * math.sqrt(2 * 0.9 * 0.1 / 1319)
    )


def test_wilson_agrees_with_scipy() -> None:
    for right, n in [(0, 10), (7, 30), (450, 500)]:
        theirs = stats.binomtest(right, n).proportion_ci(method="wilson")
        assert wilson(right, n) == pytest.approx((theirs.low, theirs.high), abs=1e-4)


def test_costs_are_shared_by_problem_and_by_problem_solved() -> None:
    def result(i: int, verdict: Verdict) -> Result:
        cost = Cost(calls=3, samples=10, sampled_tokens=100, seconds=2.0, truncated=1, malformed=2)
        return Result(f"p{i}", "mcts", Choice("1", 1, 1.0, {}), verdict, cost, {"code failed": 1})

    verdicts = [Verdict.RIGHT, Verdict.WRONG, Verdict.WRONG, Verdict.RIGHT]
    report = summarize("mcts", [result(i, v) for i, v in enumerate(verdicts)]).as_json()
    assert report["cost_per_problem"]["sampled_tokens"] == 100
    assert report["cost_per_solved"]["sampled_tokens"] == 200
    assert report["samples_lost"] == pytest.approx(0.3)
    assert report["failures"] == {"code failed": 4}
    assert mean_cost(Cost(), 0) is None
