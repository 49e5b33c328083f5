"""A process reward model in this process, with torch.

It runs as the PPM does (`ppm.scorer`): a prefix cache keeps the keys and values of earlier steps,
and concurrent searches share batches.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rstar_math.checkpoints.folders import require_torch
from rstar_math.errors import InputError
from rstar_math.llm.client import Tokens
from rstar_math.models.loading import (
    check_tokenizer,
    clear_quantization,
    convert_load_errors,
    load_tokenizer,
    resolve_checkpoint,
)
from rstar_math.models.prompting import Prompting, prompting_of_tokenizer
from rstar_math.ppm.scorer import LocalPPM
from rstar_math.prompts.step_rewards import PrmFormat, Reading, RewardInput
from rstar_math.scorers.heads import StepHead


class LocalRewards:
    """A `RewardBackend` with torch."""

    def __init__(self, model: LocalPPM, tokenizer: Any, prompting: Prompting) -> None:
        self._model, self._tokenizer = model, tokenizer
        self.prompting = prompting
        self.bos = str(tokenizer.bos_token or "")

    @classmethod
    def load(cls, place: str, layout: PrmFormat, *, deterministic: bool = False) -> "LocalRewards":
        """Return the model in a checkpoint folder or hub repository.

        It runs in bfloat16 on a GPU, and in float32 otherwise. Code from the hub is not run. Raises
        `InputError`, `MissingDependencyError` and the errors of `models.downloads.resolve_model`.
        """
        require_torch()
        import torch

        if layout.reading == "pair":
            raise InputError(
                f"The format {layout.name} is for a server that scores pairs of texts; give its "
                "address: search.prm=http://host:port/v1."
            )
        source, _ = resolve_checkpoint(place)
        folder = Path(source)
        tokenizer = load_tokenizer(place)
        tokens = token_pair(tokenizer, layout) if layout.reading == "tokens" else None
        head = StepHead.load(folder, tokens)
        outputs = len(head.layers[-1][1])
        expected = 2 if layout.reading in ("classes", "tokens") else 1
        if outputs != expected:
            raise InputError(
                f"{place} has {outputs} outputs, but the format {layout.name} reads {expected}; "
                "set search.prm_format to the format of this model."
            )
        backbone = _load_backbone(place)
        check_tokenizer(place, backbone, tokenizer)
        if backbone.config.get_text_config().hidden_size != head.inputs:
            raise InputError(f"The head in {place} does not fit the model; copy it again.")
        module = head.module()
        if torch.cuda.is_available():
            backbone, module = backbone.to("cuda", torch.bfloat16), module.to("cuda")
        model = LocalPPM(
            backbone,
            module,
            tokenizer,
            max_tokens=4096,
            deterministic=deterministic,
            readout=partial(_read, reading=layout.reading),
        )
        return cls(model, tokenizer, prompting_of_tokenizer(tokenizer, source))

    async def probabilities(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        """See `RewardBackend`. An input longer than the model's limit has no score."""
        encoded = [self._encode(each) for each in inputs]
        limit = self._model.max_tokens
        fitting = [tokens for tokens in encoded if 0 < len(tokens) <= limit]
        values = iter(await self._model.score_tokens(fitting))
        return [next(values) if 0 < len(tokens) <= limit else None for tokens in encoded]

    def _encode(self, one: RewardInput) -> Tokens:
        if not one.piecewise:
            return tuple(self._tokenizer(one.text, add_special_tokens=one.special).input_ids)
        return tuple(
            token
            for index, piece in enumerate(one.pieces)
            for token in self._tokenizer(
                piece, add_special_tokens=one.special and not index
            ).input_ids
        )

    async def aclose(self) -> None:
        """Empties the cache."""
        await self._model.aclose()


async def load_local(place: str, layout: PrmFormat, *, deterministic: bool) -> LocalRewards:
    """Return `LocalRewards.load` from a thread."""
    return await asyncio.to_thread(LocalRewards.load, place, layout, deterministic=deterministic)


def token_pair(tokenizer: Any, layout: PrmFormat) -> tuple[int, int]:
    """Return the ids (bad, good) of a format's two tokens: the last token of each text.

    Raises `InputError` if both are the same.
    """
    bad, good = (
        tokenizer(text, add_special_tokens=False).input_ids[-1:]
        for text in (layout.bad, layout.good)
    )
    if not bad or not good or bad == good:
        raise InputError(
            f"The tokenizer does not tell {layout.good!r} from {layout.bad!r}; set good and bad of "
            "the format to two other texts."
        )
    return bad[0], good[0]


def _read(outputs: Any, reading: Reading) -> Any:
    """Return probabilities (N,) for outputs (N, O); see `step_rewards.probability`."""
    import torch

    scores = outputs.float()
    if reading in ("classes", "tokens"):
        return torch.softmax(scores, dim=-1)[:, 1]
    if reading == "tanh":
        return (1.0 + torch.tanh(scores[:, 0])) / 2.0
    return torch.sigmoid(scores[:, 0])


def _load_backbone(place: str) -> Any:
    """Return the model without its head. Raises `InputError` if a weight is missing."""
    import torch
    from transformers import AutoModel

    source, options = resolve_checkpoint(place)
    with convert_load_errors(place):
        model, report = AutoModel.from_pretrained(
            source,
            dtype=torch.float32,
            attn_implementation="sdpa",
            output_loading_info=True,
            key_mapping={"^pretrained_model.model.": "model."},
            **options,
        )
        if report["missing_keys"]:
            raise InputError(
                f"{place} lacks {min(map(str, report['missing_keys']))}; give a complete "
                "checkpoint."
            )
        clear_quantization(model)
    return model
