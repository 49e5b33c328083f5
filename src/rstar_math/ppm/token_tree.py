"""Token trees and the prefix cache of a PPM: shared prefixes are computed once.

The cache is a radix tree as in SGLang (Zheng et al. 2023, arXiv:2312.07104). Each node holds a run
of tokens with their keys and values, a tensor (layers, 2, heads, n, d) for n tokens. The least
recently used nodes are evicted first.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import count, takewhile
from typing import Any

from rstar_math.prompts.rendering import PLAIN, Renderer
from rstar_math.types import Question, Step


@dataclass(frozen=True, slots=True)
class Encoding:
    """The tokens of a prefix."""

    tokens: tuple[int, ...]
    truncated: bool = False
    """Whether tokens between the question and the last step were left out."""


def encode(
    tokenizer: Any,
    question: Question,
    prefix: Sequence[Step],
    *,
    max_tokens: int,
    renderer: Renderer = PLAIN,
) -> Encoding | None:
    """Returns the tokens of a prefix whose last step is to be judged, at most `max_tokens`.

    If the prefix is too long, leaves out the tokens right after the question, but none of the last
    step. Returns None if the question and the last step alone are too long.
    """
    whole, before_steps, before_last = _texts(renderer, question, prefix)
    tokens = tuple(tokenizer(whole).input_ids)
    if len(tokens) <= max_tokens:
        return Encoding(tokens)
    question_tokens = tokenizer(before_steps).input_ids
    return _truncate(tokens, question_tokens, tokenizer(before_last).input_ids, max_tokens)


async def encode_with(
    tokenize: Callable[[str], Awaitable[tuple[int, ...]]],
    question: Question,
    prefix: Sequence[Step],
    *,
    max_tokens: int,
    renderer: Renderer = PLAIN,
) -> Encoding | None:
    """Like `encode`, with an asynchronous tokenizer."""
    whole, before_steps, before_last = _texts(renderer, question, prefix)
    tokens = await tokenize(whole)
    if len(tokens) <= max_tokens:
        return Encoding(tokens)
    question_tokens = await tokenize(before_steps)
    return _truncate(tokens, question_tokens, await tokenize(before_last), max_tokens)


def _texts(renderer: Renderer, question: Question, prefix: Sequence[Step]) -> tuple[str, str, str]:
    """Returns the whole text, the text before the steps, and the text before the last step."""
    before_steps = renderer.question_prompt(question)
    before_last = before_steps + renderer.solution(prefix[:-1])
    return before_steps + renderer.solution(prefix), before_steps, before_last


def _truncate(
    tokens: tuple[int, ...], question: Sequence[int], before_last: Sequence[int], max_tokens: int
) -> Encoding | None:
    """Returns the question's tokens and as many of the last tokens as fit."""
    remaining = max_tokens - len(question)
    if remaining < len(tokens) - len(before_last) + 1:
        return None
    return Encoding((*question, *tokens[-remaining:]), truncated=True)


@dataclass(slots=True)
class TokenTree:
    """A trie of token sequences. Parents come before their children."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    """Index of the previous token; -1 for the first token of a sequence."""
    depths: list[int] = field(default_factory=list)
    """Position in the sequence, from 0."""
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, sequence: Sequence[int]) -> list[int]:
        """Returns the indices of a sequence's tokens, in order. Appends missing tokens."""
        parent, path = -1, []
        for token in sequence:
            key = (parent, token)
            index = self._children.get(key)
            if index is None:
                index = self._children[key] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(parent)
                self.depths.append(0 if parent < 0 else self.depths[parent] + 1)
            parent = index
            path.append(index)
        return path


def ancestor_mask(parents: Sequence[int]) -> Any:
    """Returns a bool array (L, L) that is true at (i, j) if j is i or an ancestor of i.

    It tells which tokens each token attends to. A parent must come before its children.
    """
    import numpy as np

    mask: Any = np.eye(len(parents), dtype=bool)
    for index, parent in enumerate(parents):
        if parent >= 0:
            mask[index] |= mask[parent]
    return mask


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a batch: the tokens of a `TokenTree`."""

    tokens: Sequence[int]
    parents: Sequence[int]
    depths: Sequence[int]
    past: int = 0
    """Number of tokens before the tree whose keys and values are already computed."""


def build_model_inputs(rows: Sequence[Row], pad: int, device: Any = "cpu") -> dict[str, Any]:
    """Returns the model inputs of B rows, padded with the token `pad`.

    `input_ids` and `position_ids` are (B, L). `attention_mask` is bool (B, 1, L, P + L), where P is
    the longest past. A row's past is aligned at the right end of the first P positions. A padding
    token attends only to itself, so that no softmax is empty.
    """
    import numpy as np
    import torch

    length = max(len(row.tokens) for row in rows)
    past = max(row.past for row in rows)
    ids: Any = np.full((len(rows), length), pad, dtype=np.int64)
    positions: Any = np.zeros((len(rows), length), dtype=np.int64)
    mask: Any = np.zeros((len(rows), 1, length, past + length), dtype=bool)
    mask[:, 0, :, past:] = np.eye(length, dtype=bool)
    for index, row in enumerate(rows):
        n = len(row.tokens)
        ids[index, :n] = row.tokens
        positions[index, :n] = np.asarray(row.depths) + row.past
        mask[index, 0, :n, past : past + n] = ancestor_mask(row.parents)
        mask[index, 0, :n, past - row.past : past] = True
    return {
        "input_ids": torch.from_numpy(ids).to(device),
        "position_ids": torch.from_numpy(positions).to(device),
        "attention_mask": torch.from_numpy(mask).to(device),
    }


@dataclass(slots=True, eq=False)
class _RadixNode:
    """A run of tokens with their keys and values."""

    tokens: tuple[int, ...]
    key_values: Any
    parent: "_RadixNode | None"
    children: "dict[int, _RadixNode]" = field(default_factory=dict)
    """Child nodes by their first token."""
    last_used: int = 0


class PrefixCache:
    """A cache of keys and values of at most `max_tokens` tokens.

    A single sequence in use may exceed the limit until the next one is added.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._root = _RadixNode((), None, None)
        self._clock = count(1)
        self.size = 0
        """Number of tokens in the cache."""

    def find(self, sequence: Sequence[int]) -> tuple[int, list[Any]]:
        """Returns the number of cached tokens at the start of a sequence, and their keys and values
        as a list of tensors, in order. The tensors stay valid after an eviction."""
        node, length, pieces = self._root, 0, []
        now = next(self._clock)
        while length < len(sequence):
            child = node.children.get(sequence[length])
            if child is None:
                break
            common = common_length(child.tokens, sequence, length)
            child.last_used = now
            pieces.append(child.key_values[..., :common, :])
            length += common
            if common < len(child.tokens):
                break
            node = child
        return length, pieces

    def put(self, sequence: Sequence[int], start: int, key_values: Any) -> None:
        """Caches the keys and values of a sequence's tokens from `start` on.

        Tokens that are already cached are not stored again. Nothing is cached if a token before
        `start` is not in the cache.
        """
        node, done = self._root, 0
        now = next(self._clock)
        while done < len(sequence):
            child = node.children.get(sequence[done])
            if child is None:
                if done >= start:
                    self._append(node, sequence[done:], key_values[..., done - start :, :], now)
                return
            common = common_length(child.tokens, sequence, done)
            done += common
            if common < len(child.tokens):
                if done == len(sequence):
                    return
                child = self._split(child, common)
            child.last_used = now
            node = child

    def _append(self, parent: _RadixNode, tokens: Sequence[int], key_values: Any, now: int) -> None:
        node = _RadixNode(tuple(tokens), key_values.clone(), parent, last_used=now)
        parent.children[node.tokens[0]] = node
        self.size += len(node.tokens)
        self._evict(now)

    @staticmethod
    def _split(node: _RadixNode, at: int) -> _RadixNode:
        """Splits a node in two after `at` tokens, and returns the first."""
        assert node.parent is not None
        head = _RadixNode(
            node.tokens[:at],
            node.key_values[..., :at, :].clone(),
            node.parent,
            last_used=node.last_used,
        )
        node.parent.children[head.tokens[0]] = head
        node.tokens, node.parent = node.tokens[at:], head
        node.key_values = node.key_values[..., at:, :].clone()
        head.children[node.tokens[0]] = node
        return head

    def _evict(self, now: int) -> None:
        """Drops the least recently used leaves until the limit holds, except those used `now`."""
        while self.size > self._max_tokens:
            leaves = [n for n in self._nodes() if not n.children and n.last_used < now]
            if not leaves:
                return
            leaves.sort(key=lambda node: node.last_used)
            for node in leaves[: max(1, len(leaves) // 8)]:
                assert node.parent is not None
                del node.parent.children[node.tokens[0]]
                self.size -= len(node.tokens)

    def _nodes(self) -> list[_RadixNode]:
        nodes, stack = [], list(self._root.children.values())
        while stack:
            node = stack.pop()
            nodes.append(node)
            stack.extend(node.children.values())
        return nodes


def common_length(tokens: Sequence[int], sequence: Sequence[int], start: int) -> int:
    """Returns the length of the longest common prefix of `tokens` and `sequence[start:]`."""
    pairs = zip(tokens, sequence[start : start + len(tokens)], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
