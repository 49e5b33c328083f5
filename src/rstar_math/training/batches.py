"""Training batches: micro-batches by tokens, length buckets, preference pairs as token trees that
share prefixes, and ranking metrics."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from rstar_math.ppm.token_tree import Row, TokenTree, build_model_inputs
from rstar_math.training.rows import OutcomeRow, PreferenceRow, ValueRow

PAD_MULTIPLE = 8
"""Micro-batches are padded to a multiple of this many tokens."""
Example = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ExampleShape:
    """Size of one training example: number of rows, and tokens of the longest row."""

    rows: int
    tokens: int


@dataclass(frozen=True, slots=True)
class MicroBatchLimits:
    """Maximum size of a micro-batch."""

    examples: int
    """Maximum number of examples, taken in order. Used only without a token limit."""
    tokens: int | None = None
    """Maximum number of tokens with padding. Examples are sorted by length; one that is longer runs
    alone."""


@dataclass(frozen=True, slots=True)
class StepExamples:
    """The unpadded examples of one optimizer step, as the data loader returns them.

    It holds no tensors, so no library moves it to a device.
    """

    examples: tuple[Example, ...]


def split_micro_batches(
    shapes: Sequence[ExampleShape], limits: MicroBatchLimits, *, at_least: int = 1
) -> list[list[int]]:
    """The examples of a step as micro-batches of indices.

    Returns at least `at_least` micro-batches, unless there are fewer examples.
    """
    if limits.tokens is None:
        size = limits.examples
        batches = [
            list(range(start, min(start + size, len(shapes))))
            for start in range(0, len(shapes), size)
        ]
    else:
        order = sorted(range(len(shapes)), key=lambda index: (shapes[index].tokens, index))
        batches = _pack(order, shapes, limits.tokens)
    while len(batches) < min(at_least, len(shapes)):
        largest = max(range(len(batches)), key=lambda index: len(batches[index]))
        indices = batches[largest]
        middle = len(indices) // 2
        batches[largest : largest + 1] = [indices[:middle], indices[middle:]]
    return batches


def _pack(order: Sequence[int], shapes: Sequence[ExampleShape], tokens: int) -> list[list[int]]:
    """Indices sorted by length, packed into batches of at most `tokens` tokens with padding."""
    batches: list[list[int]] = [[]]
    rows = 0
    for index in order:
        rows += shapes[index].rows
        if batches[-1] and rows * padded_length(shapes[index].tokens) > tokens:
            batches.append([])
            rows = shapes[index].rows
        batches[-1].append(index)
    return batches


def padded_length(tokens: int) -> int:
    """A length rounded up to a multiple of `PAD_MULTIPLE`."""
    return -(-tokens // PAD_MULTIPLE) * PAD_MULTIPLE


def largest_micro_batch(
    shapes: Sequence[ExampleShape], limits: MicroBatchLimits, step: int
) -> tuple[int, int]:
    """Size of the largest micro-batch of a training: rows, and padded tokens of the longest row.

    Each `step` consecutive examples are one optimizer step.
    """
    sizes: list[tuple[int, int]] = []
    for start in range(0, len(shapes), step):
        in_step = shapes[start : start + step]
        for indices in split_micro_batches(in_step, limits):
            rows = sum(in_step[i].rows for i in indices)
            sizes.append((rows, max(padded_length(in_step[i].tokens) for i in indices)))
    return max(sizes, key=lambda size: size[0] * size[1])


def collate_step(examples: Sequence[Example]) -> dict[str, StepExamples]:
    """Data collator that returns the examples of a step unchanged."""
    return {"examples": StepExamples(tuple(examples))}


def micro_batch_trainer(
    trainer_class: Any,
    *,
    limits: MicroBatchLimits,
    shape: Callable[[Example], ExampleShape],
    collate: Callable[[Sequence[Example]], dict[str, Any]],
    loss_weight: Callable[[Example], float],
    after_micro_batch: Sequence[Callable[[Sequence[Example]], None]],
) -> Any:
    """A subclass of a TRL trainer that receives all examples of a step as one batch and computes
    them in micro-batches.

    The loss of a step is divided by the sum of `loss_weight` over its examples. Each function in
    `after_micro_batch` is called with the micro-batch's examples. All processes use the same number
    of micro-batches, because a sharded model needs all of them in every forward pass.
    """
    import torch
    from accelerate.utils import DistributedType

    class MicroBatchTrainer(trainer_class):  # type: ignore[misc,unused-ignore]
        def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
            """Sum of `loss_weight` over the step's examples in all processes."""
            examples = [
                example for batch in batch_samples for example in batch["examples"].examples
            ]
            total = torch.tensor(float(sum(map(loss_weight, examples))), device=device)
            return self.accelerator.gather(total).sum()

        def floating_point_ops(self, inputs: Any) -> int:
            return 0

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            examples = inputs["examples"].examples
            shapes = [shape(example) for example in examples]
            batches = split_micro_batches(shapes, limits)
            if self.accelerator.num_processes > 1:
                count = torch.tensor(len(batches), device=self.args.device)
                most = int(self.accelerator.gather(count).max())
                batches = split_micro_batches(shapes, limits, at_least=most)
            sync = self.accelerator.gradient_state.sync_gradients
            total: Any = 0.0
            for number, indices in enumerate(batches, 1):
                last = number == len(batches)
                self.accelerator.gradient_state._set_sync_gradients(sync and last)
                deepspeed = self.accelerator.distributed_type == DistributedType.DEEPSPEED
                no_sync = nullcontext() if last or deepspeed else self.accelerator.no_sync(model)
                micro_batch = [examples[index] for index in indices]
                with no_sync:
                    inputs = collate(micro_batch)
                    total += super().training_step(model, inputs, num_items_in_batch)
                for callback in after_micro_batch:
                    callback(micro_batch)
            return total

    return MicroBatchTrainer


_BUCKET_BATCHES = 50
"""Number of batches whose examples are sorted by length together."""


def length_bucketed_order(lengths: Sequence[int], size: int, epochs: float, seed: int) -> list[int]:
    """Indices of the examples of all epochs in one list.

    Each `size` consecutive indices form a batch of examples of similar length. Every example occurs
    `epochs` times; for a fractional last epoch, only a random part of the examples.
    """
    rng = Random(seed)
    order: list[int] = []
    total = max(1, round(len(lengths) * epochs))
    while len(order) < total:
        epoch = list(range(len(lengths)))
        rng.shuffle(epoch)
        order += epoch[: total - len(order)]
    batches: list[tuple[int, ...]] = []
    for bucket in _chunks(order, size * _BUCKET_BATCHES):
        by_length = sorted(bucket, key=lambda index: (lengths[index], index))
        batches += _chunks(by_length, size)
    full = [b for b in batches if len(b) == size]
    rng.shuffle(full)
    rest = [index for b in batches if len(b) < size for index in b]
    return [index for b in full for index in b] + rest


def _chunks(items: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """The items in chunks of `size`; the last may be shorter."""
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


ScorerRow = PreferenceRow | OutcomeRow | ValueRow
_EncodedRow = tuple[ScorerRow, list[tuple[int, ...]]]
"""A row and the token sequences of its texts: two for a pair, one otherwise."""
MAX_GROUP_TOKENS = 1024
"""Tokens at which a group of outcomes or values is closed. The cost of a token tree grows with the
square of its tokens, and a search tree can have tens of thousands."""


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """The rows of one prompt, as one training example; outcomes and values in groups of about
    `MAX_GROUP_TOKENS` tokens."""

    problem: str
    """Problem id."""
    tokens: list[list[int]]
    """Tokens of each token tree."""
    parents: list[list[int]]
    """Per token: the index of its parent in the tree, -1 for a first token."""
    positions: list[list[int]]
    """(tree, token) indices at which values are read: the last token of each text."""
    pairs: list[list[int]]
    """(chosen, rejected) as indices into `positions`."""
    targets: list[float]
    """Per position: the outcome, 0 or 1, or the Q value, in [-1, 1]. Empty for pairs."""
    weights: list[float]
    """Loss weight per pair or target."""

    @property
    def size(self) -> int:
        """Number of tokens to compute."""
        return sum(map(len, self.tokens))


def group_rows(
    rows: Sequence[ScorerRow], tokenizer: Any, *, max_tokens: int, shared: bool = True
) -> tuple[list[PromptGroup], int]:
    """Groups in the order in which their prompts first occur, and the number of rows left out.

    Rows with a text longer than `max_tokens` are left out, because truncation would remove the
    judged step. Without `shared`, every text is computed separately, as TRL does.
    """
    by_prompt: dict[tuple[str, str], list[ScorerRow]] = {}
    for row in rows:
        by_prompt.setdefault((row.problem, row.prompt), []).append(row)
    groups, left_out = [], 0
    for (problem, _), members in by_prompt.items():
        encoded = [(row, [tuple(tokenizer(t).input_ids) for t in _texts(row)]) for row in members]
        fitting = [
            (row, sequences) for row, sequences in encoded if max(map(len, sequences)) <= max_tokens
        ]
        left_out += len(members) - len(fitting)
        groups += [_make_group(problem, part, shared=shared) for part in _split_group(fitting)]
    return groups, left_out


def _split_group(rows: Sequence[_EncodedRow]) -> Iterator[Sequence[_EncodedRow]]:
    """Rows of one prompt in parts that are computed together.

    Pairs stay together. Outcomes and values are split at `MAX_GROUP_TOKENS`, sorted so that texts
    with a common prefix are in the same part.
    """
    if any(isinstance(row, PreferenceRow) for row, _ in rows):
        yield rows
        return
    part: list[_EncodedRow] = []
    tree = TokenTree()
    for row, sequences in sorted(rows, key=lambda encoded: encoded[1]):
        part.append((row, sequences))
        tree.add(sequences[0])
        if len(tree) >= MAX_GROUP_TOKENS:
            yield part
            part, tree = [], TokenTree()
    if part:
        yield part


def _texts(row: ScorerRow) -> list[str]:
    """The texts of a row that get a value: (chosen, rejected) for a pair, else one."""
    if isinstance(row, PreferenceRow):
        return [row.prompt + row.chosen, row.prompt + row.rejected]
    return [row.prompt + row.completion]


def _make_group(problem: str, rows: Sequence[_EncodedRow], *, shared: bool) -> PromptGroup:
    trees = [TokenTree()]
    positions: list[list[int]] = []
    pairs, targets, weights = [], [], []
    position_of: dict[tuple[int, ...], int] = {}
    for row, sequences in rows:
        for sequence in sequences:
            if shared and isinstance(row, PreferenceRow) and sequence in position_of:
                continue
            if not shared and positions:
                trees.append(TokenTree())
            position_of[sequence] = len(positions)
            positions.append([len(trees) - 1, trees[-1].add(sequence)[-1]])
            if isinstance(row, OutcomeRow | ValueRow):
                targets.append(float(row.label) if isinstance(row, OutcomeRow) else row.value)
                weights.append(1.0)
        if isinstance(row, PreferenceRow):
            pairs.append([position_of[sequence] for sequence in sequences])
            weights.append(row.weight)
    return PromptGroup(
        problem=problem,
        tokens=[tree.tokens for tree in trees],
        parents=[tree.parents for tree in trees],
        positions=positions,
        pairs=pairs,
        targets=targets,
        weights=weights,
    )


def collate(groups: Iterable[PromptGroup | Mapping[str, Any]], pad: int) -> dict[str, Any]:
    """Model inputs of a batch of groups.

    Besides the inputs of the model: `positions` (N, 2) as (row, token), `pairs` (M, 2) as indices
    into `positions`, `targets` (N or 0) and `weights` (M or N).
    """
    import torch

    rows: list[Row] = []
    positions: list[tuple[int, int]] = []
    pairs: list[tuple[int, int]] = []
    targets: list[float] = []
    weights: list[float] = []
    for group in groups:
        fields = asdict(group) if isinstance(group, PromptGroup) else group
        pairs += [
            (chosen + len(positions), rejected + len(positions))
            for chosen, rejected in fields["pairs"]
        ]
        positions += [(row + len(rows), index) for row, index in fields["positions"]]
        rows += [
            Row(tokens, parents, token_depths(parents))
            for tokens, parents in zip(fields["tokens"], fields["parents"], strict=True)
        ]
        targets += fields["targets"]
        weights += fields["weights"]
    return {
        **build_model_inputs(rows, pad),
        "positions": torch.tensor(positions, dtype=torch.long).reshape(-1, 2),
        "pairs": torch.tensor(pairs, dtype=torch.long).reshape(-1, 2),
        "targets": torch.tensor(targets, dtype=torch.float),
        "weights": torch.tensor(weights, dtype=torch.float),
    }


def token_depths(parents: Sequence[int]) -> list[int]:
    """The depth of each token in a token tree; a first token has depth 0."""
    depths: list[int] = []
    for parent in parents:
        depths.append(0 if parent < 0 else depths[parent] + 1)
    return depths


def batch_groups(groups: Sequence[PromptGroup], tokens: int) -> Iterator[list[PromptGroup]]:
    """Groups in batches of at most `tokens` tokens with padding, and of at least one group."""
    chunk: list[PromptGroup] = []
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
    """Predictions of similar probability, and how often they were correct."""

    low: float
    """Lower bound of the predicted probability, inclusive."""
    high: float
    """Upper bound of the predicted probability, exclusive except for 1."""
    count: int
    predicted: float
    """Mean predicted probability, in [0, 1]; 0 for an empty bin."""
    seen: float
    """Observed frequency, in [0, 1]; 0 for an empty bin."""


def ranking_accuracy(
    pairs: Sequence[tuple[float, float]], weights: Sequence[float] | None = None
) -> float | None:
    """Weighted share of (chosen, rejected) pairs whose chosen side has the higher value.

    A tie counts half. None without pairs.
    """
    weights = [1.0] * len(pairs) if weights is None else weights
    total = sum(weights)
    if total == 0:
        return None
    correct = (
        weight * (0.5 if chosen == rejected else float(chosen > rejected))
        for (chosen, rejected), weight in zip(pairs, weights, strict=True)
    )
    return sum(correct) / total


def calibration(predicted: Sequence[float], observed: Sequence[float], bins: int = 10) -> list[Bin]:
    """A calibration table: `bins` bins of equal width over predicted probabilities in [0, 1].

    Observations are 0, 1 or a share.
    """
    table: list[Bin] = []
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        in_bin = [
            (p, o)
            for p, o in zip(predicted, observed, strict=True)
            if low <= p < high or (p == high == 1.0)
        ]
        n = max(1, len(in_bin))
        mean_predicted = sum(p for p, _ in in_bin) / n
        table.append(Bin(low, high, len(in_bin), mean_predicted, sum(o for _, o in in_bin) / n))
    return table


def pair_calibration(pairs: Sequence[tuple[float, float]], bins: int = 10) -> list[Bin]:
    """A calibration table of (chosen, rejected) values.

    Predicted: the Bradley-Terry probability, at least 0.5, that the side with the higher value is
    the chosen one. Observed: how often it is.
    """
    predicted = [1.0 / (1.0 + math.exp(-abs(a - b))) for a, b in pairs]
    return calibration(predicted, [0.5 if a == b else float(a > b) for a, b in pairs], bins)


def calibration_error(table: Sequence[Bin]) -> float:
    """Expected calibration error: the mean distance of predicted and observed, weighted by count,
    in [0, 1]."""
    total = sum(row.count for row in table)
    return sum(row.count * abs(row.predicted - row.seen) for row in table) / max(1, total)
