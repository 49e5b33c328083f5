"""Micro-batches: how the examples of one optimizer step go through the model in parts.

A step's loss is divided by what the whole step trains on, and its gradients are summed over the
parts, so that the way of cutting changes memory and speed, and results only by rounding.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

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


def gathered(examples: Sequence[Example]) -> dict[str, StepExamples]:
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
