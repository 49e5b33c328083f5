"""Rows of preference data as what a model runs: all that is compared with one another, in one token
tree, with what it has in common standing once (`models.packing`)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rstar_math.models.packing import Row, TokenTree, batch
from rstar_math.training.rows import OutcomeRow, PairRow, ValueRow

Judged = PairRow | OutcomeRow | ValueRow
Member = tuple[Judged, list[tuple[int, ...]]]
"""A row and the tokens of its sides."""

ROOM = 1024
"""Tokens at which a group of outcomes or values is full: the cost of a row grows with its square,
and a searched tree has tens of thousands."""


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of one prompt of one problem; of outcomes and values at most some `ROOM` tokens.

    `tokens[r]` and `parents[r]` are token trees; `ends` are (r, index) of tokens at which values
    are read. Pairs are (place in `ends` of the better, of the worse); targets, one an end, are
    outcomes 0 or 1, or Q values; `weights` belong to pairs or targets.
    """

    problem: str
    tokens: list[list[int]]
    parents: list[list[int]]
    ends: list[list[int]]
    pairs: list[list[int]]
    targets: list[float]
    weights: list[float]

    @property
    def size(self) -> int:
        """Tokens to run."""
        return sum(map(len, self.tokens))


def groups_of(
    rows: Sequence[Judged], tokenizer: Any, *, max_tokens: int, shared: bool = True
) -> tuple[list[Group], int]:
    """Groups in the order in which their prompts first appear, and how many rows were left out
    because a side is longer than `max_tokens`: cutting it would take the step that is judged.

    Without `shared`, every side of every row is run by itself, as TRL does it.
    """
    by_prompt: dict[tuple[str, str], list[Judged]] = {}
    for row in rows:
        by_prompt.setdefault((row.problem, row.prompt), []).append(row)
    groups, left_out = [], 0
    for (problem, _), members in by_prompt.items():
        sides = [[tuple(tokenizer(text).input_ids) for text in _texts(row)] for row in members]
        fitting = [i for i, side in enumerate(sides) if max(map(len, side)) <= max_tokens]
        left_out += len(members) - len(fitting)
        kept = [(members[i], sides[i]) for i in fitting]
        groups += [_group(problem, part, shared=shared) for part in _parts(kept)]
    return groups, left_out


def _parts(members: Sequence[Member]) -> Iterator[Sequence[Member]]:
    """Members that are run together. Those of one node's pairs stay together; outcomes and values
    are cut into parts, what begins alike side by side."""
    if any(isinstance(row, PairRow) for row, _ in members):
        yield members
        return
    part: list[Member] = []
    tree = TokenTree()
    for row, sides in sorted(members, key=lambda member: member[1]):
        part.append((row, sides))
        tree.add(sides[0])
        if len(tree) >= ROOM:
            yield part
            part, tree = [], TokenTree()
    if part:
        yield part


def _texts(row: Judged) -> list[str]:
    """What is valued in a row."""
    if isinstance(row, PairRow):
        return [row.prompt + row.chosen, row.prompt + row.rejected]
    return [row.prompt + row.completion]


def _group(problem: str, members: Sequence[Member], *, shared: bool) -> Group:
    trees = [TokenTree()]
    ends: list[list[int]] = []
    pairs, targets, weights = [], [], []
    places: dict[tuple[int, ...], int] = {}
    for row, sides in members:
        for side in sides:
            if shared and isinstance(row, PairRow) and side in places:
                continue
            if not shared and ends:
                trees.append(TokenTree())
            places[side] = len(ends)
            ends.append([len(trees) - 1, trees[-1].add(side)[-1]])
            if isinstance(row, OutcomeRow | ValueRow):
                targets.append(float(row.label) if isinstance(row, OutcomeRow) else row.value)
                weights.append(1.0)
        if isinstance(row, PairRow):
            pairs.append([places[side] for side in sides])
            weights.append(row.weight)
    return Group(
        problem=problem,
        tokens=[tree.tokens for tree in trees],
        parents=[tree.parents for tree in trees],
        ends=ends,
        pairs=pairs,
        targets=targets,
        weights=weights,
    )


def collate(groups: Iterable[Group | Mapping[str, Any]], pad: int) -> dict[str, Any]:
    """Model inputs of some groups, with `ends` (N, 2), `pairs` (M, 2), `targets` (N or 0) and
    `weights`, whose places count through the batch."""
    import torch

    rows: list[Row] = []
    ends: list[tuple[int, int]] = []
    pairs: list[tuple[int, int]] = []
    targets: list[float] = []
    weights: list[float] = []
    for group in groups:
        one = asdict(group) if isinstance(group, Group) else group
        pairs += [(a + len(ends), b + len(ends)) for a, b in one["pairs"]]
        ends += [(row + len(rows), index) for row, index in one["ends"]]
        rows += [
            Row(tokens, parents, depths(parents))
            for tokens, parents in zip(one["tokens"], one["parents"], strict=True)
        ]
        targets += one["targets"]
        weights += one["weights"]
    return {
        **batch(rows, pad),
        "ends": torch.tensor(ends, dtype=torch.long).reshape(-1, 2),
        "pairs": torch.tensor(pairs, dtype=torch.long).reshape(-1, 2),
        "targets": torch.tensor(targets, dtype=torch.float),
        "weights": torch.tensor(weights, dtype=torch.float),
    }


def depths(parents: Sequence[int]) -> list[int]:
    """The depth of each token of a tree, from 0."""
    found: list[int] = []
    for parent in parents:
        found.append(0 if parent < 0 else found[parent] + 1)
    return found


def in_batches(groups: Sequence[Group], tokens: int) -> Iterator[list[Group]]:
    """Groups in turn, in batches of at most so many tokens with their padding, at least one."""
    chunk: list[Group] = []
    for group in groups:
        longest = max(max(map(len, g.tokens)) for g in [*chunk, group])
        if chunk and longest * sum(len(g.tokens) for g in [*chunk, group]) > tokens:
            yield chunk
            chunk = []
        chunk.append(group)
    if chunk:
        yield chunk
