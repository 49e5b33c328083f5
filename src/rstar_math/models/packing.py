"""Many token sequences with common beginnings as one row, in which each common token stands once.

The row's tokens form a tree (a trie): a token's position is its depth, and it attends to its
ancestors and itself. A causal model then computes for each token exactly what it computes in the
sequence alone, since nothing else is seen: question and earlier steps are run once for all steps
that follow them, in training and in scoring.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class TokenTree:
    """A trie of token sequences in the order of insertion; parents come before their children."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    """Index of the token before; -1 at the beginning of a sequence."""
    depths: list[int] = field(default_factory=list)
    """Place in the sequence, from 0."""
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, sequence: Sequence[int]) -> list[int]:
        """The indices of a sequence's tokens, in order; those not yet there are appended."""
        at, path = -1, []
        for token in sequence:
            key = (at, token)
            found = self._children.get(key)
            if found is None:
                found = self._children[key] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(at)
                self.depths.append(0 if at < 0 else self.depths[at] + 1)
            at = found
            path.append(at)
        return path


def ancestry(parents: Sequence[int]) -> Any:
    """Which tokens each token attends to: a bool array (L, L), row i true at i's ancestors and i.

    A parent must come before its children.
    """
    import numpy as np

    mask: Any = np.eye(len(parents), dtype=bool)
    for index, parent in enumerate(parents):
        if parent >= 0:
            mask[index] |= mask[parent]
    return mask


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a batch: new tokens, and how many tokens (already run) each of them follows."""

    tokens: Sequence[int]
    parents: Sequence[int]
    depths: Sequence[int]
    past: int = 0


def batch(rows: Sequence[Row], pad: int, device: Any = "cpu") -> dict[str, Any]:
    """Model inputs of B rows: `input_ids` and `position_ids` (B, L), `attention_mask` bool
    (B, 1, L, P + L), where P is the longest past; pasts stand at the right end of the first P
    places. Padding attends to itself alone, so that no softmax is empty."""
    import numpy as np
    import torch

    length = max(len(row.tokens) for row in rows)
    past = max(row.past for row in rows)
    ids: Any = np.full((len(rows), length), pad, dtype=np.int64)
    places: Any = np.zeros((len(rows), length), dtype=np.int64)
    mask: Any = np.zeros((len(rows), 1, length, past + length), dtype=bool)
    mask[:, 0, :, past:] = np.eye(length, dtype=bool)
    for index, row in enumerate(rows):
        n = len(row.tokens)
        ids[index, :n] = row.tokens
        places[index, :n] = np.asarray(row.depths) + row.past
        mask[index, 0, :n, past : past + n] = ancestry(row.parents)
        mask[index, 0, :n, past - row.past : past] = True
    return {
        "input_ids": torch.from_numpy(ids).to(device),
        "position_ids": torch.from_numpy(places).to(device),
        "attention_mask": torch.from_numpy(mask).to(device),
    }
