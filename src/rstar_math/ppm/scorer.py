"""The PPM as a Scorer with torch (rStar-Math, arXiv:2501.04519, section 3.3).

What was run is kept: a new step costs its own tokens, for its question and earlier steps are in the
prefix cache, and siblings that come together share what is not. Calls that wait together run as one
batch, beside the event loop.
"""

import asyncio
import threading
from collections.abc import Sequence
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
from rstar_math.ppm.token_tree import Encoding, PrefixCache, Row, TokenTree, batch, common, encode
from rstar_math.prompts.rendering import PLAIN, Renderer
from rstar_math.types import Cost, Question, Step


class LocalPPM:
    """A trained scorer: `backbone` gives hidden states, `head` a raw score of them.

    `limit` is the most tokens it reads of a prefix; `cache_tokens` how many tokens' keys and values
    it keeps (SmolLM2-135M: 46 kB each in float32); `batch_tokens` how many new tokens it runs at
    once. The same prefix gets the same value up to rounding (1e-5 in float32), which depends on
    what it is batched with; `alone` runs each whole and by itself, slower and the same to the bit.
    """

    def __init__(
        self,
        backbone: Any,
        head: Any,
        tokenizer: Any,
        *,
        layers: Sequence[int] | None = None,
        limit: int = 2048,
        cache_tokens: int = 16_384,
        batch_tokens: int = 2048,
        alone: bool = False,
        renderer: Renderer = PLAIN,
    ) -> None:
        self._backbone, self._head, self._tokenizer = backbone.eval(), head.eval(), tokenizer
        self._layers = layers
        self.renderer = renderer
        """How questions and steps were written in training."""
        self._limit = min(limit, backbone.config.get_text_config().max_position_embeddings)
        self._batch_tokens = batch_tokens
        self._alone = alone
        self._cache = PrefixCache(cache_tokens)
        self._lock = threading.Lock()
        self._waiting: list[tuple[Sequence[Encoding | None], asyncio.Future[_Scores]]] = []
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def load(cls, path: str | Path, *, base: str | None = None, **options: Any) -> "LocalPPM":
        """The model of a checkpoint that `rstar train ppm` wrote, or of any sequence-classification
        checkpoint with one output; of a probe, `base` names its policy where that has moved.

        On a GPU in bfloat16, else in float32. Raises `InputError` in one sentence for what is
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
        known = prompting_of_tokenizer(tokenizer, str(folder))
        renderer = scorer_renderer(known)
        return cls(backbone, head, tokenizer, layers=layers, renderer=renderer, **options)

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`. Charges the tokens that were run (`Cost.scorer_tokens`).

        A prefix too long for the model loses steps after its question, never of its last step;
        where question and last step alone are too long, it gets 0 and is counted in
        `Cost.unscorable`. Being cancelled leaves nothing behind."""
        encodings = [
            encode(
                self._tokenizer,
                question,
                prefix,
                judged=1,
                limit=self._limit,
                renderer=self.renderer,
            )
            for prefix in prefixes
        ]
        return await self._scored(encodings)

    async def score_texts(self, texts: Sequence[str]) -> list[float | None]:
        """The values of prompts with solutions as `prompts.templates` writes them; None for those
        longer than the model reads."""
        tokens = [tuple(self._tokenizer(text).input_ids) for text in texts]
        fitting = [Encoding(t) for t in tokens if len(t) <= self._limit]
        values = iter(await self._scored(fitting))
        return [next(values) if len(t) <= self._limit else None for t in tokens]

    async def aclose(self) -> None:
        """Forget what was run; the weights go with the last who holds them."""
        self._cache = PrefixCache(0)

    async def _scored(self, encodings: Sequence[Encoding | None]) -> list[float]:
        """Values from the next batch that runs; 0 for None."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Scores] = loop.create_future()
        self._waiting.append((encodings, future))
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._serve())
        scores = await future
        add_cost(Cost(scorer_tokens=scores.run_tokens, unscorable=scores.unscored))
        return scores.values

    async def _serve(self) -> None:
        """Run what waits, all of it at once, until nothing does."""
        while self._waiting:
            taken, self._waiting = self._waiting, []
            taken = [entry for entry in taken if not entry[1].done()]
            try:
                results = await asyncio.to_thread(self._run, [entry[0] for entry in taken])
            except BaseException as error:
                for _, future in taken:
                    if not future.done():
                        future.set_exception(error)
                if not isinstance(error, Exception):
                    self._waiting.clear()
                    raise
                continue
            for (_, future), scores in zip(taken, results, strict=True):
                if not future.done():
                    future.set_result(scores)

    def _run(self, calls: Sequence[Sequence[Encoding | None]]) -> "list[_Scores]":
        """The scores of some calls."""
        wanted = {item.tokens for call in calls for item in call if item is not None}
        with self._lock:
            values = self._values(sorted(wanted))
        billed: set[tuple[int, ...]] = set()
        results = []
        for call in calls:
            here = [item.tokens for item in call if item is not None]
            run = sum(values[t][1] for t in {*here} - billed)
            if not self._alone:
                billed |= {*here}
            row = [0.0 if item is None else values[item.tokens][0] for item in call]
            results.append(_Scores(row, run, sum(item is None for item in call)))
        return results

    def _values(
        self, sequences: Sequence[tuple[int, ...]]
    ) -> dict[tuple[int, ...], tuple[float, int]]:
        """Value and tokens run, for each sequence."""
        groups: list[_Group] = []
        for tokens in sequences:
            length, pieces = (0, []) if self._alone else self._cache.find(tokens[:-1])
            apart = self._alone or not groups
            if apart or not groups[-1].takes(tokens, length, self._batch_tokens):
                groups.append(_Group(length, pieces))
            groups[-1].add(tokens)
        found: dict[tuple[int, ...], tuple[float, int]] = {}
        for chunk in self._chunks(groups):
            found |= self._forward(chunk)
        return found

    def _chunks(self, groups: "list[_Group]") -> "list[list[_Group]]":
        """Groups of like length together, at most `batch_tokens` with their padding."""
        chunks: list[list[_Group]] = []
        for group in sorted(groups, key=lambda g: (len(g.tree), g.length)):
            size = len(group.tree) * (len(chunks[-1]) + 1 if chunks else 1)
            if self._alone or not chunks or size > self._batch_tokens:
                chunks.append([])
            chunks[-1].append(group)
        return chunks

    def _forward(self, groups: "list[_Group]") -> dict[tuple[int, ...], tuple[float, int]]:
        """Run some groups as one batch, and keep their keys and values."""
        import torch

        device = self._backbone.device
        rows = [Row(g.tree.tokens, g.tree.parents, g.tree.depths, g.length) for g in groups]
        inputs = batch(rows, self._tokenizer.pad_token_id, device)
        with torch.inference_mode():
            cache = _past(groups)
            outputs = self._backbone(
                **inputs,
                cache=cache,
                use_cache=True,
                output_hidden_states=self._layers is not None,
            )
            hidden = select_hidden_states(outputs, self._layers)
            past = max(g.length for g in groups)
            kept = torch.stack(
                [torch.stack((x.keys, x.values))[..., past:, :] for x in cache.layers]
            )
            found = {}
            for index, group in enumerate(groups):
                ends = torch.tensor([path[-1] for path in group.paths], device=device)
                raw = self._head(hidden[index, ends].to(_dtype(self._head))).squeeze(-1)
                values = value_from_score(raw).tolist()
                for tokens, path, new, value in zip(
                    group.sequences, group.paths, group.new, values, strict=True
                ):
                    found[tokens] = (value, new)
                    if not self._alone:
                        self._cache.put(tokens, group.length, kept[:, :, index][..., path, :])
        return found


@dataclass(frozen=True, slots=True)
class _Scores:
    """What one call gets."""

    values: list[float]
    run_tokens: int
    unscored: int


class _Group:
    """Sequences that go on from one kept prefix, or where none is kept begin alike."""

    def __init__(self, length: int, pieces: list[Any]) -> None:
        self.length, self.pieces = length, pieces
        self.tree = TokenTree()
        self.sequences: list[tuple[int, ...]] = []
        self.paths: list[list[int]] = []
        self.new: list[int] = []

    def takes(self, tokens: tuple[int, ...], length: int, room: int) -> bool:
        """Whether a sequence of which `length` tokens are kept belongs here. A row's cost grows
        with its square, so what begins alike by chance stays apart."""
        last = self.sequences[-1]
        if length != self.length or tokens[:length] != last[:length]:
            return False
        if len(self.tree) + len(tokens) - length > room:
            return False
        return length > 0 or 4 * common(tokens, last, 0) >= min(len(tokens), len(last))

    def add(self, tokens: tuple[int, ...]) -> None:
        """One more sequence, and how many tokens it adds."""
        before = len(self.tree)
        self.paths.append(self.tree.add(tokens[self.length :]))
        self.sequences.append(tokens)
        self.new.append(len(self.tree) - before)


def _past(groups: Sequence[_Group]) -> Any:
    """The kept keys and values of some groups as one cache, shorter ones at the right end."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache()
    past = max(group.length for group in groups)
    if past == 0:
        return cache
    whole = [torch.cat(g.pieces, dim=-2) if g.pieces else None for g in groups]
    shape = next(w.shape for w in whole if w is not None)
    like = next(w for w in whole if w is not None)
    joined = like.new_zeros((*shape[:2], len(groups), shape[2], past, shape[4]))
    for index, (group, kept) in enumerate(zip(groups, whole, strict=True)):
        if kept is not None:
            joined[:, :, index, :, past - group.length :] = kept
    for layer in range(shape[0]):
        cache.update(joined[layer, 0], joined[layer, 1], layer)
    return cache


def _dtype(head: Any) -> Any:
    return next(head.parameters()).dtype
