"""The process preference model as a Scorer on a model that runs elsewhere: in llama.cpp in this
process, or behind an address. No torch is needed here."""

import asyncio
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from rstar_math.config import HF, LOCAL, TRAINED, Config
from rstar_math.config.servers import VLLM
from rstar_math.errors import ConfigError, InputError, ModelError
from rstar_math.meter import charge
from rstar_math.models.connect import gguf_of
from rstar_math.models.encoding import encode_with
from rstar_math.models.engine import EngineSettings, engine_client, start
from rstar_math.models.gguf_adapters import check_adapter
from rstar_math.models.gguf_header import read_header
from rstar_math.models.http import HttpModel, Retry
from rstar_math.models.loading import trained_folder
from rstar_math.models.names import parse_name
from rstar_math.models.prompting import (
    NOTHING_KNOWN,
    Prompting,
    prompting_of_folder,
    prompting_of_gguf,
    scorer_renderer,
)
from rstar_math.models.readers import (
    ClassificationReader,
    EmbeddingReader,
    Reader,
    ReadoutReader,
    Tokens,
)
from rstar_math.models.replicas import Replicas
from rstar_math.models.value_head import ValueHead
from rstar_math.models.weights import shipped_model, weights_file
from rstar_math.protocols import Scorer
from rstar_math.steps.rendering import PLAIN, Renderer
from rstar_math.types import Cost, Question, Step

STREAMS = 8
"""Slots of the embedded engine, each with a cache of its own (SmolLM2-135M: 47 MB each)."""
LIMIT = 2048
"""Most tokens read of a prefix, as in `PreferenceModel`."""


class OpenScorer(Scorer, Protocol):
    """A Scorer that holds a model or a connection until closed."""

    async def aclose(self) -> None:
        """Give back what it holds."""
        ...


async def open_scorer(config: Config) -> OpenScorer:
    """The preference model that `search.ppm` names: a checkpoint folder (FOLDER or hf:FOLDER; needs
    torch), one that vLLM serves (vllm:FOLDER), a .gguf file (llama.cpp in this process), this
    package's own ("trained" in llama.cpp, hf:trained, vllm:trained), or an address.

    A .gguf adapter is added to the embedded model that `model.url` names. Beside a policy of
    transformers (hf:FOLDER), which repeats to the byte, a folder's model does so too. Raises
    `ConfigError`, `InputError`, `MissingExtra` and `ModelError` in one sentence.
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
    place = await asyncio.to_thread(placed, place)
    if place.endswith(".gguf"):
        base = await _base_of(config.model.url) if config.model.embedded else LOCAL
        return await asyncio.to_thread(ServedPreference.load, place, base=base)
    from rstar_math.models.preference import PreferenceModel

    alone = config.model.url.startswith(HF)
    return await asyncio.to_thread(PreferenceModel.load, place, alone=alone)


async def _base_of(url: str) -> str:
    """The model that an adapter is added to; it is downloaded if it is not on this disk."""
    meant = parse_name(url)
    return await gguf_of(meant) if meant.engine == "llama.cpp" else url


def placed(place: str) -> str:
    """The folder or .gguf file of a preference model in this process: as named (FOLDER, hf:FOLDER,
    FILE), or this package's own, written into the cache when it is first asked for."""
    if place == TRAINED:
        return str(shipped_model("ppm"))
    if place == f"{HF}{TRAINED}":
        return str(trained_folder("ppm"))
    return place.removeprefix(HF)


class ServedPreference:
    """A trained scorer on a `Reader`; `limit` is the most tokens it reads of a prefix, the rule for
    longer ones that of `PreferenceModel`. `held` is kept for as long as it lives."""

    def __init__(
        self,
        reader: Reader,
        http: HttpModel,
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
    ) -> "ServedPreference":
        """The model of a .gguf file that `rstar deploy` wrote of a preference model, in llama.cpp
        in this process; of an adapter, on `base`, or on "local" if the file says that. Raises
        `InputError` for what cannot score."""
        path = Path(file).expanduser()
        if not path.is_file():
            raise InputError(f"There is no file {path}; rstar deploy writes one.")
        header = read_header(path)
        head = ValueHead.of_header(header)
        if header.facts.get("general.type") == "adapter":
            ours = header.facts.get("rstar.base") == LOCAL
            model, adapter = weights_file(LOCAL if ours else base), path
            check_adapter(adapter, model, kind="ppm")
            trained = read_header(model).fact("context_length")
        else:
            model, adapter, trained = path, None, header.fact("context_length")
        limit = min(limit, int(trained or limit))
        settings = EngineSettings(
            streams,
            context_tokens=limit + 8,
            adapter=adapter,
            embeddings=adapter is not None,
        )
        server = start(model, settings)
        http = engine_client(server, path.stem, 4 * streams)
        reader = EmbeddingReader(http, head) if adapter else ReadoutReader(http, streams)
        renderer = scorer_renderer(prompting_of_gguf(model, adapter))
        return cls(reader, http, limit=limit, held=server, renderer=renderer)

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`, and `PreferenceModel.score` for prefixes that are too long.
        Charges the tokens that the server says it ran (`Cost.scorer_tokens`); vLLM counts those it
        had in its cache too, unless it is told to tell them apart."""
        encodings = [
            await encode_with(
                self._reader.tokens, question, prefix, limit=self._limit, renderer=self.renderer
            )
            for prefix in prefixes
        ]
        charge(Cost(unscored=sum(one is None for one in encodings)))
        values = await self._values({one.tokens for one in encodings if one is not None})
        return [0.0 if one is None else values[one.tokens] for one in encodings]

    async def score_texts(self, texts: Sequence[str]) -> list[float | None]:
        """See `PreferenceModel.score_texts`."""
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
        if isinstance(self._reader, ReadoutReader):
            self._reader.close()

    async def _values(self, wanted: set[Tokens]) -> dict[Tokens, float]:
        """The value of each sequence; like ones are asked for together, one after another."""
        ordered = sorted(wanted)
        values = await self._reader.values(ordered)
        return {
            tokens: value if math.isfinite(value) else 0.0
            for tokens, value in zip(ordered, values, strict=True)
        }


async def _at_address(url: str, head: str | None, config: Config) -> ServedPreference:
    """A preference model on a server: its hidden states with a head from here, or its own
    scores."""
    model = config.model
    checkpoint = url.removeprefix(VLLM) if url.startswith(VLLM) else head or ""
    known = _prompting_of_checkpoint(checkpoint)
    found = None if head is None else await asyncio.to_thread(ValueHead.load, Path(head))
    key, held = os.environ.get(model.api_key_env), None
    if url.startswith(VLLM):
        from rstar_math.models.servers.shelf import ppm_server

        lease = await ppm_server(url, config.servers)
        url, key, held = ",".join(lease.urls), lease.key, lease.end
    http = HttpModel(
        url,
        key=key,
        concurrency=model.concurrency or 32,
        retry=Retry(tries=model.retries, timeout_s=model.timeout_s),
        affinity=model.affinity,
        held=held,
    )
    try:
        await http.greet()
        reader = ClassificationReader(http) if found is None else EmbeddingReader(http, found)
        await reader.check()
    except ModelError as error:
        await http.aclose()
        raise type(error)(str(error).replace("--model", "search.ppm")) from error
    except BaseException:
        await http.aclose()
        raise
    limit = min(LIMIT, http.context_tokens or LIMIT)
    return ServedPreference(reader, http, limit=limit, renderer=scorer_renderer(known))


def _prompting_of_checkpoint(place: str) -> Prompting:
    """How a preference model is asked, by its folder or file; nothing known where there is none."""
    if place.endswith(".gguf") and Path(place).expanduser().is_file():
        return prompting_of_gguf(Path(place).expanduser())
    return prompting_of_folder(place) if place else NOTHING_KNOWN
