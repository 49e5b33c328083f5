"""Cross-entropy over a large vocabulary without storing the logits of all tokens.

With a vocabulary of 151,936 entries, the float32 logits of one token take 0.6 MB. Here logits exist
only for some hundred tokens at a time. They are computed once: the forward pass also computes the
gradients, and the backward pass only scales them.
"""

from functools import cache
from typing import Any

CHUNK_BYTES = 128 * 2**20
"""Size of the float32 logits of one chunk."""


def chunk_rows(vocabulary: int) -> int:
    """Number of tokens per chunk for a vocabulary of this size."""
    return max(16, CHUNK_BYTES // (4 * vocabulary))


def cross_entropy_sum(hidden: Any, weight: Any, targets: Any, *, rows: int | None = None) -> Any:
    """Sum of -log softmax(hidden @ weight.T)[target] over N tokens, a float32 scalar.

    `hidden` is (N, H), `weight` (V, H), `targets` (N,); `rows` is the number of tokens per chunk.
    Matrix products use the type of `hidden`, everything else float32. Gradients go to `hidden` and
    to `weight`, if they require them.
    """
    return _function().apply(hidden, weight, targets, rows or chunk_rows(weight.shape[0]))


@cache
def _function() -> Any:
    import torch

    class ChunkedCrossEntropy(torch.autograd.Function):  # type: ignore[misc,unused-ignore]
        @staticmethod
        def forward(ctx: Any, hidden: Any, weight: Any, targets: Any, rows: int) -> Any:
            with torch.autocast(hidden.device.type, enabled=False):
                total, ctx.d_hidden, ctx.d_weight = _loss_and_gradients(
                    ctx.needs_input_grad, hidden, weight, targets, rows
                )
            return total

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            d_hidden, d_weight = ctx.d_hidden, ctx.d_weight
            ctx.d_hidden = ctx.d_weight = None
            return (
                None if d_hidden is None else d_hidden.mul_(grads[0]),
                None if d_weight is None else d_weight.mul_(grads[0]),
                None,
                None,
            )

    return ChunkedCrossEntropy


def _loss_and_gradients(
    needs_grad: Any, hidden: Any, weight: Any, targets: Any, rows: int
) -> tuple[Any, Any, Any]:
    """The loss and its gradients with respect to `hidden` and `weight`. A gradient is None if
    `needs_grad` does not ask for it."""
    import torch

    matrix = weight.detach().to(hidden.dtype)
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    d_hidden = torch.empty_like(hidden) if needs_grad[0] else None
    d_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_grad[1] else None
    for start in range(0, len(hidden), rows):
        chunk, labels = hidden[start : start + rows], targets[start : start + rows, None]
        logits = (chunk @ matrix.T).float()
        top = logits.amax(dim=1, keepdim=True)
        label_logits = logits.gather(1, labels) - top
        logits.sub_(top).exp_()
        sums = logits.sum(dim=1, keepdim=True)
        total += (sums.log() - label_logits).sum()
        if d_hidden is None and d_weight is None:
            continue
        logits.div_(sums)
        logits.scatter_add_(1, labels, torch.full_like(label_logits, -1.0))
        gradient = logits.to(hidden.dtype)
        if d_hidden is not None:
            torch.mm(gradient, matrix, out=d_hidden[start : start + rows])
        if d_weight is not None:
            d_weight += gradient.T @ chunk
    if d_weight is not None:
        d_weight = d_weight.to(weight.dtype)
    return total, d_hidden, d_weight
