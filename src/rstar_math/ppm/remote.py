"""The PPM as a Scorer without torch: in llama.cpp in this process, or on a server."""

import asyncio
import math
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from rstar_math.checkpoints.gguf_adapters import check_adapter
from rstar_math.checkpoints.tensors import read_header
from rstar_math.checkpoints.value_heads import ValueHead
from rstar_math.config.sections import HF, LOCAL, TRAINED, VLLM, Config, ModelConfig
from rstar_math.costs import add_cost
from rstar_math.errors import ConfigError, InputError, ModelError, ModelRejectedError
from rstar_math.llm.balancing import Replicas
from rstar_math.llm.client import OpenAIClient, Retry, Tokens, tokenize
from rstar_math.llm.connect import resolve_gguf
from rstar_math.llm.local import EngineSettings, engine_client, start_llama_cpp
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

_TEST_TEXT = "1 + 1 = 2"


class ValueBackend(Protocol):
    """A running PPM that values token sequences."""

    async def tokenize(self, text: str) -> Tokens:
        """Returns the tokens of a text."""
        ...

    async def values(self, sequences: Sequence[Tokens]) -> list[float]:
        """Returns values in [-1, 1], in order. Charges the computed tokens. Raises `ModelError`."""
        ...


class LogitBackend:
    """llama.cpp on a file whose output matrix is the value head (`checkpoints.gguf_export`).

    The value follows from the log-probabilities of the first sampled token. The sequences of one
    call run one after another in one slot, so that shared prefixes are computed once.
    """

    def __init__(self, client: OpenAIClient, slots: int) -> None:
        self._client = client
        self._slots: DecodingSlots[Tokens] = DecodingSlots(client, slots, empty=())

    async def tokenize(self, text: str) -> Tokens:
        """See `ValueBackend`."""
        return await tokenize(self._client, text)

    async def values(self, sequences: Sequence[Tokens]) -> list[float]:
        """See `ValueBackend`."""
        if not sequences:
            return []
        async with self._slots.acquire(sequences[0], keep=True) as slot:
            values = [await self._value(tokens, slot.number) for tokens in sequences]
            slot.content = sequences[-1]
            return values

    def close(self) -> None:
        """Frees the saved prefixes. Call it only after the server has stopped."""
        self._slots.close()

    async def _value(self, tokens: Tokens, slot: int) -> float:
        body = {"prompt": list(tokens), "n_predict": 1, "n_probs": 2, "temperature": 0.0}
        body |= {"cache_prompt": True, "id_slot": slot}
        reply = await self._client.post("/completion", body, outside_v1=True)
        try:
            assert isinstance(reply, dict)
            first, second = reply["completion_probabilities"][0]["top_logprobs"][:2]
            margin = float(first["logprob"]) - float(second["logprob"])
            add_cost(Cost(scorer_tokens=int(reply["timings"]["prompt_n"])))
        except (AssertionError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ModelRejectedError("llama.cpp answered without probabilities.") from error
        sign = {0: 1.0, 1: -1.0}.get(first["id"], 0.0)
        return math.tanh(sign * margin)


class EmbeddingBackend:
    """A server that returns the last token's hidden state as embedding; this process applies the
    value head. The states must not be normalized. Servers: llama.cpp with pooling "last", vLLM with
    `--runner pooling`."""

    def __init__(self, client: OpenAIClient, head: ValueHead) -> None:
        self._client, self._head = client, head

    async def tokenize(self, text: str) -> Tokens:
        """See `ValueBackend`."""
        return await tokenize(self._client, text)

    async def values(self, sequences: Sequence[Tokens]) -> list[float]:
        """See `ValueBackend`."""
        return self._head.values(await self._hidden_states(sequences))

    async def check(self) -> None:
        """Raises `ModelRejectedError` if the server normalizes its embeddings, and `InputError` if
        they do not fit the head."""
        (state,) = await self._hidden_states([await self.tokenize(_TEST_TEXT)])
        self._head.values([state])
        if abs(sum(x * x for x in state) - 1.0) < 1e-3:
            raise ModelRejectedError(
                f"{self._client.url} normalizes its embeddings, so the value head cannot use them; "
                "start it without normalization (llama.cpp: --embd-normalize -1, vLLM: a version "
                "that knows use_activation)."
            )

    async def _hidden_states(self, sequences: Sequence[Tokens]) -> list[list[float]]:
        if not sequences:
            return []
        body = {
            "model": self._client.name,
            "input": [list(tokens) for tokens in sequences],
            "encoding_format": "float",
            "embd_normalize": -1,
            "use_activation": False,
        }
        reply = await self._client.post("/embeddings", body, tokens=sum(map(len, sequences)))
        return parse_rows(reply, "embedding", len(sequences))


class ClassifyBackend:
    """vLLM's /classify on a sequence-classification checkpoint, with raw scores."""

    def __init__(self, client: OpenAIClient) -> None:
        self._client = client

    async def tokenize(self, text: str) -> Tokens:
        """See `ValueBackend`."""
        return await tokenize(self._client, text)

    async def values(self, sequences: Sequence[Tokens]) -> list[float]:
        """See `ValueBackend`."""
        return [math.tanh(score) for score in await self._scores(sequences, activation=False)]

    async def check(self) -> None:
        """Raises `ModelRejectedError` if the server cannot return raw scores."""
        sequences = [await self.tokenize(_TEST_TEXT)]
        raw = await self._scores(sequences, activation=False)
        if raw == await self._scores(sequences, activation=True):
            raise ModelRejectedError(
                f"{self._client.url} returns no raw scores (it ignores use_activation); use a "
                "newer vLLM, or serve hidden states and set the head with search.ppm_head."
            )

    async def _scores(self, sequences: Sequence[Tokens], *, activation: bool) -> list[float]:
        if not sequences:
            return []
        body = {
            "model": self._client.name,
            "input": [list(tokens) for tokens in sequences],
            "use_activation": activation,
        }
        reply = await self._client.post(
            "/classify", body, outside_v1=True, tokens=sum(map(len, sequences))
        )
        rows = parse_rows(reply, "probs", len(sequences))
        if any(len(scores) != 1 for scores in rows):
            raise ModelRejectedError(
                f"{self._client.url} returns {len(rows[0])} scores per text, but a preference "
                "model has one; serve a checkpoint of rstar train ppm."
            )
        return [scores[0] for scores in rows]


def parse_rows(reply: object, field: str, expected: int) -> list[list[float]]:
    """Returns the `expected` rows of numbers in a server's reply, in the order of the request.

    Charges the tokens that the server counted, without cached ones. Raises `ModelRejectedError`.
    """
    body: dict[str, Any] = reply if isinstance(reply, dict) else {}
    try:
        entries = sorted(body["data"], key=lambda entry: int(entry["index"]))
        rows = [[float(x) for x in entry[field]] for entry in entries]
        usage = body.get("usage") or {}
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        add_cost(Cost(scorer_tokens=max(0, int(usage.get("prompt_tokens") or 0) - int(cached))))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelRejectedError(
            f"The server answered without {field}; does it run a preference model?"
        ) from error
    if len(rows) != expected:
        raise ModelRejectedError(f"The server answered for {len(rows)} of {expected} texts.")
    return rows


SLOTS = 8
"""Default number of llama.cpp slots, each with its own cache (SmolLM2-135M: 47 MB each)."""
MAX_TOKENS = 2048
"""Default maximum number of tokens of a prefix, as in `LocalPPM`."""


class OpenScorer(Scorer, Protocol):
    """A Scorer that holds a model or a connection until it is closed."""

    async def aclose(self) -> None:
        """Frees the model or closes the connection."""
        ...


async def load_scorer(config: Config) -> OpenScorer:
    """Returns the PPM that `search.ppm` names; the caller must close it.

    `search.ppm` is one of:

        FOLDER, hf:FOLDER                    a checkpoint, run with torch in this process
        FILE.gguf                            a GGUF file, run by llama.cpp in this process
        vllm:FOLDER                          a checkpoint that vLLM serves
        trained, hf:trained, vllm:trained    the packaged PPM in llama.cpp, torch or vLLM
        http://host:port/v1                  a server

    A .gguf adapter is added to the embedded model that `model.url` names. With a transformers
    policy (model.url=hf:...), which is reproducible to the bit, a folder's PPM is too. Raises
    `ConfigError`, `InputError`, `MissingDependencyError` or `ModelError`.
    """
    name, head = config.search.ppm, config.search.ppm_head
    if name is None:
        raise ConfigError(
            "search.scorer=ppm needs a model; give its folder, .gguf file or address: "
            "--set search.ppm=PLACE."
        )
    if name.startswith(("http://", "https://", VLLM)):
        return await _connect_ppm(name, head, config)
    if head is not None:
        raise ConfigError(
            "search.ppm_head is only for a server, since a folder or file has its own head; "
            "leave it out."
        )
    path = await asyncio.to_thread(resolve_ppm, name)
    if path.endswith(".gguf"):
        base = await _resolve_base(config.model.url) if config.model.embedded else LOCAL
        return await asyncio.to_thread(RemotePPM.load, path, base=base)
    from rstar_math.ppm.scorer import LocalPPM

    deterministic = config.model.url.startswith(HF)
    return await asyncio.to_thread(LocalPPM.load, path, deterministic=deterministic)


async def _resolve_base(url: str) -> str:
    """Returns the model that an adapter is added to, after downloading it if it is missing."""
    name = parse_name(url)
    return await resolve_gguf(name) if name.engine == "llama.cpp" else url


def resolve_ppm(name: str) -> str:
    """Returns the folder or .gguf file of a PPM: FOLDER, hf:FOLDER, FILE, "trained" or hf:trained.

    Writes a packaged PPM into the cache on first use.
    """
    if name == TRAINED:
        return str(bundled_model("ppm"))
    if name == f"{HF}{TRAINED}":
        return str(bundled_checkpoint("ppm"))
    return name.removeprefix(HF)


class RemotePPM:
    """A PPM on a `ValueBackend`.

    `max_tokens` is the maximum length of a prefix; longer ones are cut as in `LocalPPM.score`.
    `server` is an in-process server, kept alive until `aclose`.
    """

    def __init__(
        self,
        backend: ValueBackend,
        client: OpenAIClient,
        *,
        max_tokens: int,
        server: Any = None,
        renderer: Renderer = PLAIN,
    ) -> None:
        self._backend, self._client = backend, client
        self._max_tokens, self._server = max_tokens, server
        self.renderer = renderer
        """Writes questions and steps in the format of the PPM's training."""

    @classmethod
    def load(
        cls,
        file: str | Path,
        *,
        base: str = LOCAL,
        slots: int = SLOTS,
        max_tokens: int = MAX_TOKENS,
    ) -> "RemotePPM":
        """Returns the PPM in a .gguf file that `rstar deploy` wrote, run by llama.cpp.

        An adapter is added to `base`, or to "local" if the file says so. Raises `InputError` if the
        file cannot score, and the errors of `start_llama_cpp`.
        """
        path = Path(file).expanduser()
        if not path.is_file():
            raise InputError(f"There is no file {path}; rstar deploy writes one.")
        header = read_header(path)
        head = ValueHead.of_header(header)
        if header.metadata.get("general.type") == "adapter":
            needs_local = header.metadata.get("rstar.base") == LOCAL
            model, adapter = weights_file(LOCAL if needs_local else base), path
            check_adapter(adapter, model, kind="ppm")
            context = read_header(model).value("context_length")
        else:
            model, adapter, context = path, None, header.value("context_length")
        max_tokens = min(max_tokens, int(context or max_tokens))
        settings = EngineSettings(
            slots,
            context_tokens=max_tokens + 8,
            adapter=adapter,
            embeddings=adapter is not None,
        )
        server = start_llama_cpp(model, settings)
        client = engine_client(server, path.stem, 4 * slots)
        backend = EmbeddingBackend(client, head) if adapter else LogitBackend(client, slots)
        renderer = scorer_renderer(prompting_of_gguf(model, adapter))
        return cls(backend, client, max_tokens=max_tokens, server=server, renderer=renderer)

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`, and `LocalPPM.score` for long prefixes.

        Charges the tokens that the server reports (`Cost.scorer_tokens`). vLLM includes cached
        tokens unless it is started with --enable-prompt-tokens-details.
        """
        encodings = [
            await encode_with(
                self._backend.tokenize,
                question,
                prefix,
                max_tokens=self._max_tokens,
                renderer=self.renderer,
            )
            for prefix in prefixes
        ]
        add_cost(Cost(unscorable=sum(encoding is None for encoding in encodings)))
        values = await self._values({e.tokens for e in encodings if e is not None})
        return [0.0 if e is None else values[e.tokens] for e in encodings]

    async def score_texts(self, texts: Sequence[str]) -> list[float | None]:
        """See `LocalPPM.score_texts`."""
        sequences = [await self._backend.tokenize(text) for text in texts]
        values = await self._values({s for s in sequences if len(s) <= self._max_tokens})
        return [values.get(sequence) for sequence in sequences]

    @property
    def replicas(self) -> Replicas:
        """The servers that run the PPM."""
        return self._client.replicas

    async def aclose(self) -> None:
        """Closes the connections and frees the weights."""
        await self._client.aclose()
        self._server = None
        if isinstance(self._backend, LogitBackend):
            self._backend.close()

    async def _values(self, sequences: set[Tokens]) -> dict[Tokens, float]:
        """Returns the value of each sequence; 0 for values that are not finite.

        The order is sorted, so that sequences with a common prefix run one after another.
        """
        ordered = sorted(sequences)
        values = await self._backend.values(ordered)
        return {
            tokens: value if math.isfinite(value) else 0.0
            for tokens, value in zip(ordered, values, strict=True)
        }


def scoring_client(
    url: str, key: str | None, model: ModelConfig, on_close: Callable[[], Awaitable[None]] | None
) -> OpenAIClient:
    """Returns a client of a server that scores, with the request limits of the policy's model."""
    return OpenAIClient(
        url,
        key=key,
        concurrency=model.concurrency or 32,
        retry=Retry(max_retries=model.max_retries, timeout_s=model.timeout_s),
        affinity=model.affinity,
        on_close=on_close,
    )


async def _connect_ppm(url: str, head: str | None, config: Config) -> RemotePPM:
    """Returns a PPM on a server, which returns hidden states if `head` is set, and scores if not.

    `head` is the path of the value head.
    """
    model = config.model
    checkpoint = url.removeprefix(VLLM) if url.startswith(VLLM) else head or ""
    prompting = _prompting_of_checkpoint(checkpoint)
    value_head = None if head is None else await asyncio.to_thread(ValueHead.load, Path(head))
    key, on_close = os.environ.get(model.api_key_env), None
    if url.startswith(VLLM):
        from rstar_math.llm.vllm_servers import ppm_server

        lease = await ppm_server(url, config.servers)
        url, key, on_close = ",".join(lease.urls), lease.key, lease.release
    client = scoring_client(url, key, model, on_close)
    try:
        await client.check_server()
        backend = (
            ClassifyBackend(client) if value_head is None else EmbeddingBackend(client, value_head)
        )
        await backend.check()
    except ModelError as error:
        await client.aclose()
        raise type(error)(str(error).replace("--model", "search.ppm")) from error
    except BaseException:
        await client.aclose()
        raise
    max_tokens = min(MAX_TOKENS, client.context_tokens or MAX_TOKENS)
    renderer = scorer_renderer(prompting)
    return RemotePPM(backend, client, max_tokens=max_tokens, renderer=renderer)


def _prompting_of_checkpoint(checkpoint: str) -> Prompting:
    """Returns how a PPM was prompted in training; `NOTHING_KNOWN` without its folder or file."""
    if checkpoint.endswith(".gguf") and Path(checkpoint).expanduser().is_file():
        return prompting_of_gguf(Path(checkpoint).expanduser())
    return prompting_of_folder(checkpoint) if checkpoint else NOTHING_KNOWN
