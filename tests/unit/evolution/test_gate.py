"""A new model is used only if it is better."""

import pytest

from rstar_math.evolution.gates import bootstrap_probability, decide


def results(right: int, of: int, start: int = 0) -> dict[str, bool]:
    return {f"q{n}": start <= n < start + right for n in range(of)}


def test_better_by_hand() -> None:
    found = decide(results(2, 10), results(5, 10), 0.5)
    assert found.promoted
    assert found.comparison["difference"] == pytest.approx(0.3)
    assert found.comparison["only_second"] == 3
    assert found.comparison["only_first"] == 0
    assert found.probability > 0.95


@pytest.mark.parametrize("new", [results(5, 10), results(4, 10), results(5, 10, 5)])
def test_no_better_is_not_used_at_any_sureness(new: dict[str, bool]) -> None:
    assert not decide(results(5, 10), new, 0.5).promoted


def test_what_looks_better_is_not_enough_where_it_must_be_shown() -> None:
    old, new = results(10, 20), results(11, 20, 5)
    assert decide(old, new, 0.5).promoted
    assert not decide(old, new, 0.95).promoted


def test_problems_are_paired_by_name_not_by_order() -> None:
    old = results(3, 10)
    new = dict(reversed(old.items()))
    assert decide(old, new, 0.5).comparison["only_first"] == 0


def test_the_chance_of_better() -> None:
    assert bootstrap_probability([0.0] * 20) == 0.5
    assert bootstrap_probability([1.0] * 20) == 1.0
    assert bootstrap_probability([-1.0] * 20) == 0.0
    assert bootstrap_probability([1.0, -1.0] * 30) == pytest.approx(0.5, abs=0.03)
