"""Cross-entropy over a large vocabulary without holding the logits of all tokens.

The logits of a vocabulary of 151,936 entries take 0.6 MB a token in float32. Here they exist for
some hundred tokens at a time, and never twice: the gradient with respect to the hidden states is
computed in the same pass, so that the backward pass only scales it.
"""

from functools import cache
from typing import Any

CHUNK_BYTES = 128 * 2**20
"""Size of one chunk's logits in float32."""


def chunk_rows(vocabulary: int) -> int:
    """Tokens whose logits are computed at once, for a vocabulary of so many entries."""
    return max(16, CHUNK_BYTES // (4 * vocabulary))


def cross_entropy_sum(hidden: Any, weight: Any, targets: Any, *, rows: int | None = None) -> Any:
    """Sum of -log softmax(hidden @ weight.T)[target] over N tokens, a float32 scalar.

    `hidden` is (N, H), `weight` (V, H), `targets` (N,). Products are computed in the type of
    `hidden`; everything after them in float32. Gradients go to `hidden` and, if it is trained,
    to `weight`.
    """
    return _function().apply(hidden, weight, targets, rows or chunk_rows(weight.shape[0]))


@cache
def _function() -> Any:
    import torch

    class ChunkedCrossEntropy(torch.autograd.Function):  # type: ignore[misc,unused-ignore]
        @staticmethod
        def forward(ctx: Any, hidden: Any, weight: Any, targets: Any, rows: int) -> Any:
            with torch.autocast(hidden.device.type, enabled=False):
                found = _pass(ctx.needs_input_grad, hidden, weight, targets, rows)
            total, ctx.d_hidden, ctx.d_weight = found
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


def _pass(needs: Any, hidden: Any, weight: Any, targets: Any, rows: int) -> tuple[Any, Any, Any]:
    """The loss and its gradients with respect to hidden states and weight; None where none is
    needed."""
    import torch

    matrix = weight.detach().to(hidden.dtype)
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    d_hidden = torch.empty_like(hidden) if needs[0] else None
    d_weight = torch.zeros_like(weight, dtype=torch.float32) if needs[1] else None
    for start in range(0, len(hidden), rows):
        part, places = hidden[start : start + rows], targets[start : start + rows, None]
        logits = (part @ matrix.T).float()
        top = logits.amax(dim=1, keepdim=True)
        chosen = logits.gather(1, places) - top
        logits.sub_(top).exp_()
        sums = logits.sum(dim=1, keepdim=True)
        total += (sums.log() - chosen).sum()
        if d_hidden is None and d_weight is None:
            continue
        logits.div_(sums)
        logits.scatter_add_(1, places, torch.full_like(chosen, -1.0))
        gradient = logits.to(hidden.dtype)
        if d_hidden is not None:
            torch.mm(gradient, matrix, out=d_hidden[start : start + rows])
        if d_weight is not None:
            d_weight += gradient.T @ part
    if d_weight is not None:
        d_weight = d_weight.to(weight.dtype)
    return total, d_hidden, d_weight
