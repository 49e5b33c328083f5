"""The PPM as a Scorer without torch: in llama.cpp in this process, or behind a server."""

import asyncio
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from rstar_math.checkpoints.gguf_adapters import check_adapter
from rstar_math.checkpoints.tensors import read_header
from rstar_math.checkpoints.value_heads import ValueHead
from rstar_math.config.sections import HF, LOCAL, TRAINED, VLLM, Config
from rstar_math.costs import add_cost
from rstar_math.errors import ConfigError, InputError, ModelError, ModelRejectedError
from rstar_math.llm.balancing import Replicas
from rstar_math.llm.client import OpenAIClient, Retry, Tokens, tokens_of
from rstar_math.llm.connect import gguf_of
from rstar_math.llm.local import EngineSettings, engine_client, start
from rstar_math.llm.slots import DecodingSlots
from rstar_math.models.embedded import bundled_model, weights_file
from rstar_math.models.loading import bundled_checkpoint
from rstar_math.models.names import parse_name
from rstar_math.models.prompting import (
    NOTHING_KNOWN,
    Prompting,
    prompting_of_folder,
    prompting_of_gguf,
    scorer_renderer,
)
from rstar_math.ppm.token_tree import encode_with
from rstar_math.prompts.rendering import PLAIN, Renderer
from rstar_math.protocols import Scorer
from rstar_math.types import Cost, Question, Step

_PROBE = "1 + 1 = 2"


class ValueBackend(Protocol):
    """A running preference model."""

    async def tokens(self, text: str) -> Tokens:
        """A text as the model's own tokens."""
        ...

    async def values(self, sequences: Sequence[Tokens]) -> list[float]:
        """Values in [-1, 1], in order. Charges the tokens that were run. Raises `ModelError`."""
        ...


class LogitBackend:
    """llama.cpp on a file whose output matrix holds the head (`gguf_files`): the value is read off
    the first token's log-probabilities. The sequences of one call run one after another in one
    slot, so that what they have in common is computed once."""

    def __init__(self, http: OpenAIClient, streams: int) -> None:
        self._http = http
        self._slots: DecodingSlots[Tokens] = DecodingSlots(http, streams, empty=())

    async def tokens(self, text: str) -> Tokens:
        """See `ValueBackend`."""
        return await tokens_of(self._http, text)

    async def values(self, sequences: Sequence[Tokens]) -> list[float]:
        """See `ValueBackend`."""
        if not sequences:
            return []
        async with self._slots.acquire(sequences[0], keep=True) as slot:
            values = [await self._value(tokens, slot.number) for tokens in sequences]
            slot.holds = sequences[-1]
            return values

    def close(self) -> None:
        """Free the saved prefixes; only after the server has ended."""
        self._slots.close()

    async def _value(self, tokens: Tokens, slot: int) -> float:
        body = {"prompt": list(tokens), "n_predict": 1, "n_probs": 2, "temperature": 0.0}
        body |= {"cache_prompt": True, "id_slot": slot}
        answer = await self._http.post("/completion", body, beside_v1=True)
        try:
            assert isinstance(answer, dict)
            first, second = answer["completion_probabilities"][0]["top_logprobs"][:2]
            margin = float(first["logprob"]) - float(second["logprob"])
            add_cost(Cost(scorer_tokens=int(answer["timings"]["prompt_n"])))
        except (AssertionError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ModelRejectedError("llama.cpp answered without probabilities.") from error
        sign = {0: 1.0, 1: -1.0}.get(first["id"], 0.0)
        return values_from_scores(sign * margin)


class EmbeddingBackend:
    """Any server that gives un-normalised hidden states of the last token as embeddings, and the
    head here: llama.cpp (pooling "last"), vLLM (`--runner pooling`)."""

    def __init__(self, http: OpenAIClient, head: ValueHead) -> None:
        self._http, self._head = http, head

    async def tokens(self, text: str) -> Tokens:
        """See `ValueBackend`."""
        return await tokens_of(self._http, text)

    async def values(self, sequences: Sequence[Tokens]) -> list[float]:
        """See `ValueBackend`."""
        return self._head.values(await self._states(sequences))

    async def check(self) -> None:
        """Nothing, where the server's states fit the head and are not normalised; else raises
        `ModelRejectedError` or `InputError`."""
        (state,) = await self._states([await self.tokens(_PROBE)])
        self._head.values([state])
        if abs(sum(x * x for x in state) - 1.0) < 1e-3:
            raise ModelRejectedError(
                f"{self._http.url} normalises its embeddings, so a head cannot read them; start it "
                "without (llama.cpp: --embd-normalize -1, vLLM: a version that knows "
                "use_activation)."
            )

    async def _states(self, sequences: Sequence[Tokens]) -> list[list[float]]:
        if not sequences:
            return []
        body = {
            "model": self._http.name,
            "input": [list(tokens) for tokens in sequences],
            "encoding_format": "float",
            "embd_normalize": -1,
            "use_activation": False,
        }
        tokens = sum(map(len, sequences))
        answer = await self._http.post("/embeddings", body, tokens=tokens)
        return [
            [float(x) for x in entry]
            for entry in parse_entries(answer, "embedding", len(sequences))
        ]


class ClassifyBackend:
    """vLLM's /classify on a sequence-classification checkpoint, asked for raw scores."""

    def __init__(self, http: OpenAIClient) -> None:
        self._http = http

    async def tokens(self, text: str) -> Tokens:
        """See `ValueBackend`."""
        return await tokens_of(self._http, text)

    async def values(self, sequences: Sequence[Tokens]) -> list[float]:
        """See `ValueBackend`."""
        return [values_from_scores(raw) for raw in await self._raw(sequences, activated=False)]

    async def check(self) -> None:
        """Nothing, where the server gives raw scores when asked for them; else raises
        `ModelRejectedError`."""
        probe = [await self.tokens(_PROBE)]
        raw, share = await self._raw(probe, activated=False), await self._raw(probe, activated=True)
        if raw == share:
            raise ModelRejectedError(
                f"{self._http.url} gives no raw scores (use_activation is ignored); use a newer "
                "vLLM, or serve hidden states and name the head with search.ppm_head."
            )

    async def _raw(self, sequences: Sequence[Tokens], *, activated: bool) -> list[float]:
        if not sequences:
            return []
        body = {
            "model": self._http.name,
            "input": [list(tokens) for tokens in sequences],
            "use_activation": activated,
        }
        tokens = sum(map(len, sequences))
        answer = await self._http.post("/classify", body, beside_v1=True, tokens=tokens)
        found = parse_entries(answer, "probs", len(sequences))
        if any(len(scores) != 1 for scores in found):
            raise ModelRejectedError(
                f"{self._http.url} gives {len(found[0])} scores a text and a preference model one; "
                "serve what rstar train ppm wrote."
            )
        return [float(scores[0]) for scores in found]


def values_from_scores(raw: float) -> float:
    """A value in [-1, 1] of a raw score."""
    from math import tanh

    return tanh(raw)


def parse_entries(answer: object, field: str, wanted: int) -> list[list[float]]:
    """The rows of numbers that a server answered with, in the order of asking; charges the tokens
    that it counted. Raises `ModelRejectedError`."""
    body: dict[str, Any] = answer if isinstance(answer, dict) else {}
    try:
        rows = sorted(body["data"], key=lambda entry: int(entry["index"]))
        found = [[float(x) for x in entry[field]] for entry in rows]
        usage = body.get("usage") or {}
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        add_cost(Cost(scorer_tokens=max(0, int(usage.get("prompt_tokens") or 0) - int(cached))))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelRejectedError(
            f"The server answered without {field}; does it run a preference model?"
        ) from error
    if len(found) != wanted:
        raise ModelRejectedError(f"The server answered {len(found)} of {wanted} texts.")
    return found


STREAMS = 8
"""Slots of the embedded engine, each with a cache of its own (SmolLM2-135M: 47 MB each)."""
LIMIT = 2048
"""Most tokens read of a prefix, as in `LocalPPM`."""


class OpenScorer(Scorer, Protocol):
    """A Scorer that holds a model or a connection until closed."""

    async def aclose(self) -> None:
        """Give back what it holds."""
        ...


async def load_scorer(config: Config) -> OpenScorer:
    """The preference model that `search.ppm` names: a checkpoint folder (FOLDER or hf:FOLDER; needs
    torch), one that vLLM serves (vllm:FOLDER), a .gguf file (llama.cpp in this process), this
    package's own ("trained" in llama.cpp, hf:trained, vllm:trained), or an address.

    A .gguf adapter is added to the embedded model that `model.url` names. Beside a policy of
    transformers (hf:FOLDER), which repeats to the byte, a folder's model does so too. Raises
    `ConfigError`, `InputError`, `MissingDependencyError` and `ModelError` in one sentence.
    """
    place, head = config.search.ppm, config.search.ppm_head
    if place is None:
        raise ConfigError(
            "search.scorer=ppm needs a model; name its folder, .gguf file or address: "
            "--set search.ppm=PLACE."
        )
    if place.startswith(("http://", "https://", VLLM)):
        return await _at_address(place, head, config)
    if head is not None:
        raise ConfigError("search.ppm_head is for a server; a folder or file has its own head.")
    place = await asyncio.to_thread(resolve_ppm, place)
    if place.endswith(".gguf"):
        base = await _base_of(config.model.url) if config.model.embedded else LOCAL
        return await asyncio.to_thread(RemotePPM.load, place, base=base)
    from rstar_math.ppm.scorer import LocalPPM

    alone = config.model.url.startswith(HF)
    return await asyncio.to_thread(LocalPPM.load, place, alone=alone)


async def _base_of(url: str) -> str:
    """The model that an adapter is added to; it is downloaded if it is not on this disk."""
    meant = parse_name(url)
    return await gguf_of(meant) if meant.engine == "llama.cpp" else url


def resolve_ppm(place: str) -> str:
    """The folder or .gguf file of a preference model in this process: as named (FOLDER, hf:FOLDER,
    FILE), or this package's own, written into the cache when it is first asked for."""
    if place == TRAINED:
        return str(bundled_model("ppm"))
    if place == f"{HF}{TRAINED}":
        return str(bundled_checkpoint("ppm"))
    return place.removeprefix(HF)


class RemotePPM:
    """A trained scorer on a `ValueBackend`; `limit` is the most tokens it reads of a prefix, the
    rule for longer ones that of `LocalPPM`. `held` is kept for as long as it lives."""

    def __init__(
        self,
        reader: ValueBackend,
        http: OpenAIClient,
        *,
        limit: int,
        held: Any = None,
        renderer: Renderer = PLAIN,
    ) -> None:
        self._reader, self._http, self._limit, self._held = reader, http, limit, held
        self.renderer = renderer
        """How questions and steps were written in training."""

    @classmethod
    def load(
        cls, file: str | Path, *, base: str = LOCAL, streams: int = STREAMS, limit: int = LIMIT
    ) -> "RemotePPM":
        """The model of a .gguf file that `rstar deploy` wrote of a preference model, in llama.cpp
        in this process; of an adapter, on `base`, or on "local" if the file says that. Raises
        `InputError` for what cannot score."""
        path = Path(file).expanduser()
        if not path.is_file():
            raise InputError(f"There is no file {path}; rstar deploy writes one.")
        header = read_header(path)
        head = ValueHead.of_header(header)
        if header.metadata.get("general.type") == "adapter":
            ours = header.metadata.get("rstar.base") == LOCAL
            model, adapter = weights_file(LOCAL if ours else base), path
            check_adapter(adapter, model, kind="ppm")
            trained = read_header(model).value("context_length")
        else:
            model, adapter, trained = path, None, header.value("context_length")
        limit = min(limit, int(trained or limit))
        settings = EngineSettings(
            streams,
            context_tokens=limit + 8,
            adapter=adapter,
            embeddings=adapter is not None,
        )
        server = start(model, settings)
        http = engine_client(server, path.stem, 4 * streams)
        reader = EmbeddingBackend(http, head) if adapter else LogitBackend(http, streams)
        renderer = scorer_renderer(prompting_of_gguf(model, adapter))
        return cls(reader, http, limit=limit, held=server, renderer=renderer)

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`, and `LocalPPM.score` for prefixes that are too long.
        Charges the tokens that the server says it ran (`Cost.scorer_tokens`); vLLM counts those it
        had in its cache too, unless it is told to tell them apart."""
        encodings = [
            await encode_with(
                self._reader.tokens, question, prefix, limit=self._limit, renderer=self.renderer
            )
            for prefix in prefixes
        ]
        add_cost(Cost(unscorable=sum(one is None for one in encodings)))
        values = await self._values({one.tokens for one in encodings if one is not None})
        return [0.0 if one is None else values[one.tokens] for one in encodings]

    async def score_texts(self, texts: Sequence[str]) -> list[float | None]:
        """See `LocalPPM.score_texts`."""
        tokens = [await self._reader.tokens(text) for text in texts]
        values = await self._values({one for one in tokens if len(one) <= self._limit})
        return [values.get(one) for one in tokens]

    @property
    def replicas(self) -> Replicas:
        """The servers that it asks."""
        return self._http.replicas

    async def aclose(self) -> None:
        """Close the connections and free the weights."""
        await self._http.aclose()
        self._held = None
        if isinstance(self._reader, LogitBackend):
            self._reader.close()

    async def _values(self, wanted: set[Tokens]) -> dict[Tokens, float]:
        """The value of each sequence; like ones are asked for together, one after another."""
        ordered = sorted(wanted)
        values = await self._reader.values(ordered)
        return {
            tokens: value if math.isfinite(value) else 0.0
            for tokens, value in zip(ordered, values, strict=True)
        }


async def _at_address(url: str, head: str | None, config: Config) -> RemotePPM:
    """A preference model on a server: its hidden states with a head from here, or its own
    scores."""
    model = config.model
    checkpoint = url.removeprefix(VLLM) if url.startswith(VLLM) else head or ""
    known = _prompting_of_checkpoint(checkpoint)
    found = None if head is None else await asyncio.to_thread(ValueHead.load, Path(head))
    key, held = os.environ.get(model.api_key_env), None
    if url.startswith(VLLM):
        from rstar_math.llm.vllm_servers import ppm_server

        lease = await ppm_server(url, config.servers)
        url, key, held = ",".join(lease.urls), lease.key, lease.end
    http = OpenAIClient(
        url,
        key=key,
        concurrency=model.concurrency or 32,
        retry=Retry(tries=model.max_retries, timeout_s=model.timeout_s),
        affinity=model.affinity,
        held=held,
    )
    try:
        await http.check_server()
        reader = ClassifyBackend(http) if found is None else EmbeddingBackend(http, found)
        await reader.check()
    except ModelError as error:
        await http.aclose()
        raise type(error)(str(error).replace("--model", "search.ppm")) from error
    except BaseException:
        await http.aclose()
        raise
    limit = min(LIMIT, http.context_tokens or LIMIT)
    return RemotePPM(reader, http, limit=limit, renderer=scorer_renderer(known))


def _prompting_of_checkpoint(place: str) -> Prompting:
    """How a preference model is asked, by its folder or file; nothing known where there is none."""
    if place.endswith(".gguf") and Path(place).expanduser().is_file():
        return prompting_of_gguf(Path(place).expanduser())
    return prompting_of_folder(place) if place else NOTHING_KNOWN
