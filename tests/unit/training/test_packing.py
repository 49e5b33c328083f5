"""Common beginnings stand once, and what is kept of prefixes is what was computed for them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.ppm.token_tree import PrefixCache, TokenTree, ancestor_mask
from rstar_math.training.batches import MAX_GROUP_TOKENS, group_rows
from rstar_math.training.rows import ValueRow

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'rstar-math[train]'")

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), min_size=1, max_size=8)


@given(SEQUENCES)
def test_a_token_tree_holds_each_sequence_once(sequences: list[list[int]]) -> None:
    tree = TokenTree()
    paths = [tree.add(sequence) for sequence in sequences]
    distinct = {tuple(s[: n + 1]) for s in sequences for n in range(len(s))}
    assert len(tree) == len(distinct)
    mask = ancestor_mask(tree.parents)
    for sequence, path in zip(sequences, paths, strict=True):
        assert [tree.tokens[i] for i in path] == sequence
        assert [tree.depths[i] for i in path] == list(range(len(sequence)))
        assert mask[path[-1]].nonzero()[0].tolist() == path


def what_is_kept(sequence: list[int]) -> Any:
    """A tensor (1, 1, 1, n, 1) in which a token's entry tells its whole prefix."""
    numbers = [hash(tuple(sequence[: n + 1])) % 2**40 for n in range(len(sequence))]
    return torch.tensor(numbers, dtype=torch.float64).view(1, 1, 1, -1, 1)


@given(SEQUENCES, st.integers(1, 30))
def test_the_cache_gives_back_what_was_put_for_that_very_prefix(
    sequences: list[list[int]], room: int
) -> None:
    cache = PrefixCache(room)
    for sequence in sequences:
        length, pieces = cache.find(sequence)
        if pieces:
            found = torch.cat(pieces, dim=-2)
            assert torch.equal(found, what_is_kept(sequence)[..., :length, :])
        else:
            assert length == 0
        cache.put(sequence, length, what_is_kept(sequence)[..., length:, :])
        assert cache.find(sequence)[0] == len(sequence)
        assert cache.size == sum(len(run.tokens) for run in cache._nodes())
        assert cache.size <= max([room, *map(len, sequences)])


class Letters:
    """A tokenizer with a token a letter."""

    def __call__(self, text: str) -> Any:
        return type("Encoded", (), {"input_ids": [ord(letter) for letter in text]})()


def test_the_values_of_a_large_tree_are_cut_into_rows_that_a_machine_can_hold() -> None:
    rows = [
        ValueRow(prompt="ask", completion=f"{n % 40:02d}{'x' * 60}{n}", problem="p", value=n / 400)
        for n in range(400)
    ]
    groups, left_out = group_rows(rows, Letters(), max_tokens=500)
    assert left_out == 0
    assert max(group.size for group in groups) <= MAX_GROUP_TOKENS + 500
    assert sum(group.size for group in groups) < sum(len(r.prompt + r.completion) for r in rows) / 4
    assert sorted(t for group in groups for t in group.targets) == [n / 400 for n in range(400)]
    for group in groups:
        assert len(group.positions) == len(group.targets) == len(group.weights)


def test_a_prefix_that_two_trees_value_keeps_both_values() -> None:
    rows = [ValueRow(prompt="a", completion="b", problem="p", value=v) for v in (0.5, -0.5)]
    (group,), _ = group_rows(rows, Letters(), max_tokens=9)
    assert (group.size, group.targets) == (2, [0.5, -0.5])
    assert group.positions[0] == group.positions[1]
