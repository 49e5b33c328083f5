"""The PPM as a Scorer with torch (rStar-Math, arXiv:2501.04519, section 3.3).

A prefix cache keeps keys and values of the question and earlier steps, so that a new step costs
only its own tokens. Siblings that are scored together share the rest. Concurrent calls run as one
batch, in a thread.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstar_math.checkpoints.value_heads import PROBE_FILE
from rstar_math.costs import add_cost
from rstar_math.errors import InputError
from rstar_math.models.loading import (
    backbone_of,
    load_probe,
    load_value_model,
    select_hidden_states,
    value_from_score,
)
from rstar_math.models.prompting import prompting_of_tokenizer, scorer_renderer
from rstar_math.ppm.token_tree import (
    Encoding,
    PrefixCache,
    Row,
    TokenTree,
    build_model_inputs,
    common_length,
    encode,
)
from rstar_math.prompts.rendering import PLAIN, Renderer
from rstar_math.types import Cost, Question, Step


def tanh_of_output(outputs: Any) -> Any:
    """Return the values in [-1, 1] of a head with one output, (N, 1)."""
    return value_from_score(outputs.squeeze(-1))


class LocalPPM:
    """A PPM in this process: `backbone` computes hidden states, `head` a raw score from each.

    `readout` turns the head's outputs (N, O) into values (N,); by default it is tanh of one output.
    `max_tokens` is the maximum length of a prefix. `cache_tokens` is the number of tokens whose
    keys and values are cached (SmolLM2-135M: 46 kB each in float32). `batch_tokens` is the maximum
    number of new tokens per batch.

    Values of equal prefixes agree up to rounding (1e-5 in float32), which depends on the batch.
    With `deterministic` each prefix runs whole and alone: slower, but reproducible to the bit.
    """

    def __init__(
        self,
        backbone: Any,
        head: Any,
        tokenizer: Any,
        *,
        layers: Sequence[int] | None = None,
        max_tokens: int = 2048,
        cache_tokens: int = 16_384,
        batch_tokens: int = 2048,
        deterministic: bool = False,
        renderer: Renderer = PLAIN,
        readout: Callable[[Any], Any] = tanh_of_output,
    ) -> None:
        self._backbone, self._head, self._tokenizer = backbone.eval(), head.eval(), tokenizer
        self._layers, self._readout = layers, readout
        self.renderer = renderer
        """Writes questions and steps in the format of the PPM's training."""
        model_limit = backbone.config.get_text_config().max_position_embeddings
        self.max_tokens = min(max_tokens, model_limit)
        """Maximum length of a prefix."""
        self._batch_tokens = batch_tokens
        self._deterministic = deterministic
        self._cache = PrefixCache(cache_tokens)
        self._lock = threading.Lock()
        self._waiting: list[_Call] = []
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def load(cls, path: str | Path, *, base: str | None = None, **options: Any) -> "LocalPPM":
        """Returns the PPM in a checkpoint that `rstar train ppm` wrote, or in any
        sequence-classification checkpoint with one output.

        For a probe, `base` is the current path of its policy, if the policy was moved. The PPM runs
        in bfloat16 on a GPU, and in float32 otherwise. Raises `InputError` for a checkpoint that is
        damaged, lacks its head or belongs to another backbone.
        """
        from rstar_math.checkpoints.folders import require_torch

        require_torch()
        import torch

        folder = Path(path)
        if not folder.is_dir():
            raise InputError(f"There is no checkpoint {folder}; rstar train ppm writes one.")
        layers: tuple[int, ...] | None = None
        if (folder / PROBE_FILE).is_file():
            backbone, tokenizer, head, layers = load_probe(folder, base)
        else:
            model, tokenizer = load_value_model(str(folder))
            backbone, head = backbone_of(model), model.score
        if torch.cuda.is_available():
            backbone, head = backbone.to("cuda", torch.bfloat16), head.to("cuda")
        renderer = scorer_renderer(prompting_of_tokenizer(tokenizer, str(folder)))
        return cls(backbone, head, tokenizer, layers=layers, renderer=renderer, **options)

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`. Charges the computed tokens (`Cost.scorer_tokens`).

        A prefix longer than the model's limit loses text after its question, never from its last
        step. If the question and the last step alone are too long, the value is 0, and the prefix
        is counted in `Cost.unscorable`. Cancellation leaves nothing behind.
        """
        encodings = [
            encode(
                self._tokenizer,
                question,
                prefix,
                max_tokens=self.max_tokens,
                renderer=self.renderer,
            )
            for prefix in prefixes
        ]
        return await self._score_encodings(encodings)

    async def score_texts(self, texts: Sequence[str]) -> list[float | None]:
        """Returns the values of prompts with solutions, as `prompts.templates` writes them; None
        for texts longer than the model's limit."""
        sequences = [tuple(self._tokenizer(text).input_ids) for text in texts]
        fitting = [Encoding(s) for s in sequences if len(s) <= self.max_tokens]
        values = iter(await self._score_encodings(fitting))
        return [next(values) if len(s) <= self.max_tokens else None for s in sequences]

    async def score_tokens(self, sequences: Sequence[tuple[int, ...]]) -> list[float]:
        """Returns the values of token sequences, each at most `max_tokens` long and not empty."""
        return await self._score_encodings([Encoding(tokens) for tokens in sequences])

    async def aclose(self) -> None:
        """Empties the cache. The weights are freed with the last reference to them."""
        self._cache = PrefixCache(0)

    async def _score_encodings(self, encodings: Sequence[Encoding | None]) -> list[float]:
        """Returns values from the next batch; 0 for None."""
        loop = asyncio.get_running_loop()
        call = _Call(encodings, loop.create_future())
        self._waiting.append(call)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run_waiting())
        scores = await call.result
        add_cost(Cost(scorer_tokens=scores.computed_tokens, unscorable=scores.unscorable))
        return scores.values

    async def _run_waiting(self) -> None:
        """Runs all waiting calls as one batch, repeatedly until none is waiting."""
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            calls = [call for call in waiting if not call.result.done()]
            try:
                results = await asyncio.to_thread(self._run, [call.encodings for call in calls])
            except BaseException as error:
                for call in calls:
                    if not call.result.done():
                        call.result.set_exception(error)
                if not isinstance(error, Exception):
                    self._waiting.clear()
                    raise
                continue
            for call, scores in zip(calls, results, strict=True):
                if not call.result.done():
                    call.result.set_result(scores)

    def _run(self, calls: Sequence[Sequence[Encoding | None]]) -> "list[_Scores]":
        """Returns the scores of each call. Equal sequences are computed once, and the first call
        that contains one is charged."""
        sequences = {e.tokens for encodings in calls for e in encodings if e is not None}
        with self._lock:
            values = self._values(sorted(sequences))
        charged: set[tuple[int, ...]] = set()
        results = []
        for encodings in calls:
            own = {e.tokens for e in encodings if e is not None}
            computed = sum(values[tokens][1] for tokens in own - charged)
            if not self._deterministic:
                charged |= own
            row = [0.0 if e is None else values[e.tokens][0] for e in encodings]
            results.append(_Scores(row, computed, sum(e is None for e in encodings)))
        return results

    def _values(
        self, sequences: Sequence[tuple[int, ...]]
    ) -> dict[tuple[int, ...], tuple[float, int]]:
        """Returns the value and the number of computed tokens of each sequence."""
        groups: list[_Group] = []
        for tokens in sequences:
            length, pieces = (0, []) if self._deterministic else self._cache.find(tokens[:-1])
            separate = self._deterministic or not groups
            if separate or not groups[-1].accepts(tokens, length, self._batch_tokens):
                groups.append(_Group(length, pieces))
            groups[-1].add(tokens)
        values: dict[tuple[int, ...], tuple[float, int]] = {}
        for batch in self._batches(groups):
            values |= self._forward(batch)
        return values

    def _batches(self, groups: "list[_Group]") -> "list[list[_Group]]":
        """Returns batches of groups of similar length, of at most `batch_tokens` with padding."""
        batches: list[list[_Group]] = []
        for group in sorted(groups, key=lambda g: (len(g.tree), g.past)):
            size = len(group.tree) * (len(batches[-1]) + 1 if batches else 1)
            if self._deterministic or not batches or size > self._batch_tokens:
                batches.append([])
            batches[-1].append(group)
        return batches

    def _forward(self, groups: "list[_Group]") -> dict[tuple[int, ...], tuple[float, int]]:
        """Runs some groups as one batch, and caches their keys and values.

        Returns the value and the number of computed tokens of each sequence.
        """
        import torch

        device = self._backbone.device
        rows = [Row(g.tree.tokens, g.tree.parents, g.tree.depths, g.past) for g in groups]
        inputs = build_model_inputs(rows, self._tokenizer.pad_token_id, device)
        with torch.inference_mode():
            cache = _past_cache(groups)
            states = self._backbone(
                **inputs,
                cache=cache,
                use_cache=True,
                output_hidden_states=self._layers is not None,
            )
            hidden = select_hidden_states(states, self._layers)
            past = max(g.past for g in groups)
            key_values = torch.stack(
                [torch.stack((x.keys, x.values))[..., past:, :] for x in cache.layers]
            )
            results = {}
            for index, group in enumerate(groups):
                ends = torch.tensor([path[-1] for path in group.paths], device=device)
                outputs = self._head(hidden[index, ends].to(_dtype(self._head)))
                values = self._readout(outputs).tolist()
                for tokens, path, new, value in zip(
                    group.sequences, group.paths, group.new_tokens, values, strict=True
                ):
                    results[tokens] = (value, new)
                    if not self._deterministic:
                        self._cache.put(tokens, group.past, key_values[:, :, index][..., path, :])
        return results


@dataclass(frozen=True, slots=True)
class _Scores:
    """The result of one call."""

    values: list[float]
    computed_tokens: int
    unscorable: int


@dataclass(frozen=True, slots=True)
class _Call:
    """A call that waits for the next batch."""

    encodings: Sequence[Encoding | None]
    result: asyncio.Future[_Scores]


class _Group:
    """Sequences for one row of a batch, as a tree of new tokens.

    They continue the same cached prefix of `past` tokens. Without one (`past` 0), they begin alike.
    `pieces` are the keys and values of the prefix.
    """

    def __init__(self, past: int, pieces: list[Any]) -> None:
        self.past, self.pieces = past, pieces
        self.tree = TokenTree()
        self.sequences: list[tuple[int, ...]] = []
        self.paths: list[list[int]] = []
        """Indices in the tree of each sequence's new tokens."""
        self.new_tokens: list[int] = []
        """Number of tokens that each sequence added to the tree."""

    def accepts(self, tokens: tuple[int, ...], cached: int, max_tokens: int) -> bool:
        """Whether a sequence with `cached` cached tokens fits this group of at most `max_tokens`.

        The cost of a row grows with the square of its length, so sequences with only a short common
        beginning stay apart.
        """
        last = self.sequences[-1]
        if cached != self.past or tokens[:cached] != last[:cached]:
            return False
        if len(self.tree) + len(tokens) - cached > max_tokens:
            return False
        return cached > 0 or 4 * common_length(tokens, last, 0) >= min(len(tokens), len(last))

    def add(self, tokens: tuple[int, ...]) -> None:
        """Adds a sequence."""
        before = len(self.tree)
        self.paths.append(self.tree.add(tokens[self.past :]))
        self.sequences.append(tokens)
        self.new_tokens.append(len(self.tree) - before)


def _past_cache(groups: Sequence[_Group]) -> Any:
    """Returns the cached keys and values of some groups as one transformers cache, aligned at the
    right end."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache()
    past = max(group.past for group in groups)
    if past == 0:
        return cache
    joined = [torch.cat(g.pieces, dim=-2) if g.pieces else None for g in groups]
    example = next(tensor for tensor in joined if tensor is not None)
    layers, two, heads, _, size = example.shape
    padded = example.new_zeros((layers, two, len(groups), heads, past, size))
    for index, (group, key_values) in enumerate(zip(groups, joined, strict=True)):
        if key_values is not None:
            padded[:, :, index, :, past - group.past :] = key_values
    for layer in range(layers):
        cache.update(padded[layer, 0], padded[layer, 1], layer)
    return cache


def _dtype(head: Any) -> Any:
    return next(head.parameters()).dtype
