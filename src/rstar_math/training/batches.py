"""Batches for training: micro-batches by tokens, length buckets, and pairs as token trees with
shared prefixes."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from rstar_math.ppm.token_tree import Row, TokenTree, batch
from rstar_math.training.rows import OutcomeRow, PreferenceRow, ValueRow

ALIGNED = 8
"""Micro-batches are padded to a multiple of so many tokens."""
Example = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of one example: its rows, and the tokens of the longest."""

    rows: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be computed at once."""

    examples: int
    """Examples, in the order in which they come; used where there is no limit on tokens."""
    tokens: int | None = None
    """Tokens with padding. Examples are then sorted by length, and one that is longer is alone."""


@dataclass(frozen=True, slots=True)
class StepExamples:
    """The examples of one optimizer step, as the trainer's data loader hands them over: not yet
    padded, and nothing that libraries would move to a device."""

    items: tuple[Example, ...]


def cut(shapes: Sequence[Shape], limits: Limits, *, parts: int = 1) -> list[list[int]]:
    """The indices of a step's examples in micro-batches. With `parts`, at least so many, as far as
    there are examples."""
    if limits.tokens is None:
        size = limits.examples
        found = [
            list(range(start, min(start + size, len(shapes))))
            for start in range(0, len(shapes), size)
        ]
    else:
        order = sorted(range(len(shapes)), key=lambda index: (shapes[index].tokens, index))
        found = _packed(order, shapes, limits.tokens)
    while len(found) < min(parts, len(shapes)):
        largest = max(range(len(found)), key=lambda index: len(found[index]))
        whole = found[largest]
        found[largest : largest + 1] = [whole[: len(whole) // 2], whole[len(whole) // 2 :]]
    return found


def _packed(order: Sequence[int], shapes: Sequence[Shape], tokens: int) -> list[list[int]]:
    """Indices, sorted by length, in parts of at most so many tokens with their padding."""
    found: list[list[int]] = [[]]
    rows = 0
    for index in order:
        rows += shapes[index].rows
        if found[-1] and rows * aligned(shapes[index].tokens) > tokens:
            found.append([])
            rows = shapes[index].rows
        found[-1].append(index)
    return found


def aligned(tokens: int) -> int:
    """A length with its padding."""
    return -(-tokens // ALIGNED) * ALIGNED


def largest_part(shapes: Sequence[Shape], limits: Limits, step: int) -> tuple[int, int]:
    """The largest micro-batch of a training whose steps are the examples in turn: rows, and tokens
    of the longest row."""
    sizes = [
        (sum(shapes[i].rows for i in part), max(aligned(shapes[i].tokens) for i in part))
        for start in range(0, len(shapes), step)
        for place in [shapes[start : start + step]]
        for part in _offset(cut(place, limits), start)
    ]
    return max(sizes, key=lambda size: size[0] * size[1])


def _offset(parts: Sequence[Sequence[int]], start: int) -> list[list[int]]:
    return [[index + start for index in part] for part in parts]


def step_tokens(examples: Sequence[Example]) -> dict[str, StepExamples]:
    """The trainer's collator: a step's examples as they are."""
    return {"examples": StepExamples(tuple(examples))}


def in_micro_batches(
    trainer_class: Any,
    *,
    limits: Limits,
    shape: Callable[[Example], Shape],
    collate: Callable[[Sequence[Example]], dict[str, Any]],
    items: Callable[[Example], float],
    on_part: Sequence[Callable[[Sequence[Example]], None]],
) -> Any:
    """A subclass of one of TRL's trainers that takes all of a step's examples as one batch and
    computes them in micro-batches.

    `items` is what an example adds to the number that the step's loss is divided by; `on_part` are
    called after each micro-batch. Several processes cut into the same number of parts, since a
    sharded model needs all of them at every forward pass.
    """
    import torch
    from accelerate.utils import DistributedType

    class Stepping(trainer_class):  # type: ignore[misc,unused-ignore]
        def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
            """What all processes train on in this step."""
            examples = [one for batch in batch_samples for one in batch["examples"].items]
            total = torch.tensor(float(sum(map(items, examples))), device=device)
            return self.accelerator.gather(total).sum()

        def floating_point_ops(self, inputs: Any) -> int:
            return 0

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            examples = inputs["examples"].items
            shapes = [shape(one) for one in examples]
            parts = cut(shapes, limits)
            if self.accelerator.num_processes > 1:
                count = torch.tensor(len(parts), device=self.args.device)
                parts = cut(shapes, limits, parts=int(self.accelerator.gather(count).max()))
            synced = self.accelerator.gradient_state.sync_gradients
            total: Any = 0.0
            for number, part in enumerate(parts, 1):
                last = number == len(parts)
                self.accelerator.gradient_state._set_sync_gradients(synced and last)
                deepspeed = self.accelerator.distributed_type == DistributedType.DEEPSPEED
                hold = nullcontext() if last or deepspeed else self.accelerator.no_sync(model)
                chosen = [examples[index] for index in part]
                with hold:
                    total += super().training_step(model, collate(chosen), num_items_in_batch)
                for call in on_part:
                    call(chosen)
            return total

    return Stepping


_POOL = 50
"""Batches among which examples of like length are sought."""


def length_bucketed_order(lengths: Sequence[int], size: int, epochs: float, seed: int) -> list[int]:
    """Indices of examples for all epochs in one list, of which each `size` in turn make a batch of
    like lengths. Every example comes `epochs` times, up to the fraction of the last epoch."""
    rng = Random(seed)
    order: list[int] = []
    total = max(1, round(len(lengths) * epochs))
    while len(order) < total:
        epoch = list(range(len(lengths)))
        rng.shuffle(epoch)
        order += epoch[: total - len(order)]
    batches: list[tuple[int, ...]] = []
    for pool in _cut(order, size * _POOL):
        ranked = sorted(pool, key=lambda index: (lengths[index], index))
        batches += _cut(ranked, size)
    full = [b for b in batches if len(b) == size]
    rng.shuffle(full)
    rest = [index for b in batches if len(b) < size for index in b]
    return [index for b in full for index in b] + rest


def _cut(items: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """The items in pieces of a size; the last may be shorter."""
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


Judged = PreferenceRow | OutcomeRow | ValueRow
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
    if any(isinstance(row, PreferenceRow) for row, _ in members):
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
    if isinstance(row, PreferenceRow):
        return [row.prompt + row.chosen, row.prompt + row.rejected]
    return [row.prompt + row.completion]


def _group(problem: str, members: Sequence[Member], *, shared: bool) -> Group:
    trees = [TokenTree()]
    ends: list[list[int]] = []
    pairs, targets, weights = [], [], []
    places: dict[tuple[int, ...], int] = {}
    for row, sides in members:
        for side in sides:
            if shared and isinstance(row, PreferenceRow) and side in places:
                continue
            if not shared and ends:
                trees.append(TokenTree())
            places[side] = len(ends)
            ends.append([len(trees) - 1, trees[-1].add(side)[-1]])
            if isinstance(row, OutcomeRow | ValueRow):
                targets.append(float(row.label) if isinstance(row, OutcomeRow) else row.value)
                weights.append(1.0)
        if isinstance(row, PreferenceRow):
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


@dataclass(frozen=True, slots=True)
class Bin:
    """Predictions of like probability, and what became of them."""

    low: float
    high: float
    count: int
    predicted: float
    """Mean predicted probability, in [0, 1]; 0 for an empty bin."""
    seen: float
    """Share that came true, in [0, 1]; 0 for an empty bin."""


def ranking_accuracy(
    pairs: Sequence[tuple[float, float]], weights: Sequence[float] | None = None
) -> float | None:
    """Weighted share of pairs whose preferred side (the first) has the higher value; a tie counts
    half. None where there are no pairs."""
    weights = [1.0] * len(pairs) if weights is None else weights
    total = sum(weights)
    if total == 0:
        return None
    right = (
        weight * (0.5 if better == worse else float(better > worse))
        for (better, worse), weight in zip(pairs, weights, strict=True)
    )
    return sum(right) / total


def calibration(predicted: Sequence[float], seen: Sequence[float], bins: int = 10) -> list[Bin]:
    """A table of `bins` equal bins of predicted probabilities in [0, 1] against what came true, as
    0, 1 or a share."""
    found: list[Bin] = []
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        here = [
            (p, s)
            for p, s in zip(predicted, seen, strict=True)
            if low <= p < high or (p == high == 1.0)
        ]
        n = max(1, len(here))
        found.append(
            Bin(low, high, len(here), sum(p for p, _ in here) / n, sum(s for _, s in here) / n)
        )
    return found


def pair_calibration(pairs: Sequence[tuple[float, float]], bins: int = 10) -> list[Bin]:
    """The same of pairs: the Bradley-Terry probability that the side with the higher value is the
    better one, at least 0.5, against how often it is."""
    predicted = [1.0 / (1.0 + math.exp(-abs(a - b))) for a, b in pairs]
    return calibration(predicted, [0.5 if a == b else float(a > b) for a, b in pairs], bins)


def calibration_error(table: Sequence[Bin]) -> float:
    """Expected calibration error: mean distance of predicted and seen, by count, in [0, 1]."""
    total = sum(row.count for row in table)
    return sum(row.count * abs(row.predicted - row.seen) for row in table) / max(1, total)
