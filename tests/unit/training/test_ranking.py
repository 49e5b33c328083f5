"""Figures of a scorer, worked by hand; the order and the split of training data."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.training.batches import (
    calibration,
    calibration_error,
    length_bucketed_order,
    pair_calibration,
    ranking_accuracy,
)
from rstar_math.training.rows import is_held_out


def test_ranking_accuracy_by_hand() -> None:
    pairs = [(0.5, 0.1), (0.2, 0.4), (0.3, 0.3), (0.9, -0.9)]
    assert ranking_accuracy(pairs) == pytest.approx(2.5 / 4)
    assert ranking_accuracy(pairs, [1, 3, 0, 0]) == pytest.approx(1 / 4)
    assert ranking_accuracy([]) is None


def test_a_calibration_table_by_hand() -> None:
    table = calibration([0.05, 0.07, 0.95, 1.0], [0, 1, 1, 1], bins=10)
    assert [(row.count, row.seen) for row in table if row.count] == [(2, 0.5), (2, 1.0)]
    assert table[0].predicted == pytest.approx(0.06)
    assert calibration_error(table) == pytest.approx((2 * 0.44 + 2 * 0.025) / 4)
    assert sum(row.count for row in pair_calibration([(1, -1), (-1, 1), (0, 0)])) == 3


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=60),
    st.integers(1, 7),
    st.sampled_from([0.5, 1, 2, 2.5]),
    st.integers(0, 5),
)
def test_every_example_is_seen_as_often_as_epochs_say(
    lengths: list[int], size: int, epochs: float, seed: int
) -> None:
    order = length_bucketed_order(lengths, size, epochs, seed)
    assert len(order) == max(1, round(len(lengths) * epochs))
    counts = Counter(order)
    assert all(int(epochs) <= counts[i] <= -(-epochs // 1) for i in range(len(lengths)))
    assert order == length_bucketed_order(lengths, size, epochs, seed)


def test_batches_hold_like_lengths() -> None:
    lengths = [(37 * n) % 100 for n in range(400)]
    order = length_bucketed_order(lengths, 8, 1, 0)
    spans = [
        max(lengths[i] for i in order[b : b + 8]) - min(lengths[i] for i in order[b : b + 8])
        for b in range(0, 400, 8)
    ]
    assert max(spans) <= 3
    assert order != sorted(order, key=lambda i: lengths[i])


def test_a_problem_is_held_out_or_not_whatever_its_rows() -> None:
    share = sum(is_held_out(f"p{n}", 0.2, 1) for n in range(2000)) / 2000
    assert share == pytest.approx(0.2, abs=0.03)
    assert [n for n in range(8) if is_held_out(f"p{n}", 0.2, 1)] == [0, 1, 2, 5]
    assert not is_held_out("p1", 0.0, 1)
