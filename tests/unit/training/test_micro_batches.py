"""Cutting a step into micro-batches: nothing is lost, and limits hold."""

from hypothesis import given
from hypothesis import strategies as st

from rstar_math.training.batches import (
    ExampleShape,
    MicroBatchLimits,
    largest_micro_batch,
    padded_length,
    split_micro_batches,
)

SHAPES = st.lists(
    st.builds(ExampleShape, st.integers(1, 4), st.integers(1, 300)), min_size=1, max_size=40
)


@given(SHAPES, st.one_of(st.none(), st.integers(16, 2000)), st.integers(1, 9), st.integers(1, 6))
def test_every_example_is_in_one_part(
    shapes: list[ExampleShape], tokens: int | None, examples: int, parts: int
) -> None:
    found = split_micro_batches(shapes, MicroBatchLimits(examples, tokens), at_least=parts)
    assert sorted(index for part in found for index in part) == list(range(len(shapes)))
    assert all(found)
    assert len(found) >= min(parts, len(shapes))


@given(SHAPES, st.integers(16, 2000))
def test_a_part_has_at_most_so_many_tokens_with_padding(
    shapes: list[ExampleShape], tokens: int
) -> None:
    for part in split_micro_batches(shapes, MicroBatchLimits(8, tokens)):
        longest = max(padded_length(shapes[index].tokens) for index in part)
        assert len(part) == 1 or longest * sum(shapes[i].rows for i in part) <= tokens


def test_without_a_limit_on_tokens_the_order_is_kept() -> None:
    shapes = [ExampleShape(1, n) for n in (9, 3, 7, 1, 5)]
    assert split_micro_batches(shapes, MicroBatchLimits(2)) == [[0, 1], [2, 3], [4]]
    assert split_micro_batches(shapes, MicroBatchLimits(8, 24)) == [[3, 1, 4], [2], [0]]


def test_the_largest_part_of_all_steps_is_found() -> None:
    shapes = [ExampleShape(1, n) for n in (10, 10, 100, 30, 10, 10)]
    assert largest_micro_batch(shapes, MicroBatchLimits(2), 4) == (2, 104)
    assert largest_micro_batch(shapes, MicroBatchLimits(2, 64), 4) == (1, 104)
