"""Models in this process: a llama.cpp server on the loopback, and transformers."""

import asyncio
import os
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rstar_math.checkpoints.gguf_adapters import check_adapter
from rstar_math.checkpoints.gguf_export import check_policy
from rstar_math.concurrency import gather
from rstar_math.config.sections import LOCAL, TRAINED
from rstar_math.costs import add_cost
from rstar_math.errors import (
    ContextLengthError,
    InputError,
    MissingDependencyError,
    ModelError,
    ModelRejectedError,
    RequestError,
)
from rstar_math.llm.client import OpenAIClient, Retry, tokens_of
from rstar_math.llm.formats import LLAMA_CPP, CompletionRequest, split_reasoning
from rstar_math.llm.slots import STATE_FOLDER, DecodingSlots, Slot, can_save
from rstar_math.models.embedded import weights_file
from rstar_math.models.prompting import prompting_of_gguf, prompting_of_tokenizer
from rstar_math.protocols import Completion
from rstar_math.types import Cost

PATIENCE_S = 86_400.0
"""Longest wait for the embedded model: it is slow where the machine is busy, and never lost."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How llama.cpp is started."""

    streams: int
    """Sequences in its memory at once, each in a slot with a cache of its own (see `slots`)."""
    context_tokens: int
    """Longest of them, in tokens."""
    adapter: Path | None = None
    """A LoRA adapter that is added to the weights."""
    embeddings: bool = False
    """Whether it gives last hidden states, as they are, instead of text."""


def start(path: Path, settings: EngineSettings) -> tuple[Any, str]:
    """A running server and its key. Raises `MissingDependencyError`, and `ModelRejectedError` or
    `InputError` for files that llama.cpp does not load."""
    try:
        import xllamacpp
    except ImportError as error:
        raise MissingDependencyError(
            "The embedded model needs xllamacpp; type: pip install 'rstar-math[local]' "
            "(or name a server with --model http://host:port/v1)."
        ) from error
    key = secrets.token_urlsafe(24)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = settings.streams
    params.n_ctx = settings.streams * settings.context_tokens
    params.kv_unified = False
    params.cache_ram_mib = 0
    params.warmup = False
    # The file's own chat template is a program of unknown origin that llama.cpp would run at load
    # without limits; prompts are rendered by `prompts.chat_templates` instead.
    params.use_jinja = False
    params.chat_template = "chatml"
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [key]
    params.endpoint_metrics = True
    params.ui = False
    params.verbosity = -1
    params.cpuparams.n_threads = len(os.sched_getaffinity(0))
    params.n_threads_http = settings.streams + 16
    if can_save():
        params.slot_save_path = STATE_FOLDER
    if settings.adapter is not None:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(settings.adapter), 1.0)]
    if settings.embeddings:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_LAST
        params.embd_normalize = -1
    try:
        return xllamacpp.Server(params), key
    except RuntimeError as error:
        if settings.adapter is not None:
            raise InputError(
                f"llama.cpp cannot load {path} with the adapter {settings.adapter}: {error}; was "
                "the adapter trained on that model?"
            ) from error
        raise ModelRejectedError(
            f"llama.cpp cannot load {path}: {error}; is it a whole GGUF file?"
        ) from error


def engine_client(server: tuple[Any, str], name: str, concurrency: int) -> OpenAIClient:
    """A client of a running server."""
    return OpenAIClient(
        f"{server[0].listening_address}/v1",
        name=name,
        key=server[1],
        concurrency=concurrency,
        retry=Retry(tries=0, timeout_s=PATIENCE_S),
    )


class LocalModel:
    """A Completer on a GGUF file, with a LoRA adapter if one is named; loads the weights when made
    (about 1 s for SmolLM2-135M)."""

    def __init__(
        self, model: str, *, streams: int, context_tokens: int, adapter: str | None = None
    ) -> None:
        path = weights_file(model)
        lora = Path(adapter).expanduser() if adapter else None
        if model not in (LOCAL, TRAINED):
            check_policy(path)
        if lora is not None:
            check_adapter(lora, path, kind="policy")
        self._server = start(path, EngineSettings(streams, context_tokens, lora))
        self._http = engine_client(self._server, path.stem, 4 * streams)
        self._http.dialect = LLAMA_CPP
        self.prompting = prompting_of_gguf(path, lora)
        self._slots = DecodingSlots(self._http, streams, empty="")
        self.name = path.stem if lora is None else f"{path.stem}+{lora.stem}"

    @property
    def server(self) -> Any:
        """The server of xllamacpp, for its metrics."""
        return self._server[0]

    async def tokens(self, text: str) -> tuple[int, ...]:
        """A text in the model's own tokens."""
        return await tokens_of(self._http, text)

    async def complete(
        self,
        prompt: str,
        *,
        n: int,
        stop: Sequence[str],
        max_tokens: int,
        temperature: float,
        seed: int,
    ) -> list[Completion]:
        """See `protocols.Completer`. The prompt is computed once; each sample then runs in a slot
        of its own, as soon as one is free. A sample that fails alone is left out."""
        ask = CompletionRequest(
            self._http.name, prompt, 1, tuple(stop), max_tokens, temperature, seed
        )
        cached = await self._slots.share(prompt, n, partial(self._compute, prompt))
        asks = [replace(ask, seed=(seed + at) % 2**32) for at in range(n)]
        parts = await gather(self._sample(one, keep=n == 1) for one in asks)
        answered = [part for part in parts if isinstance(part, tuple)]
        if not answered:
            raise next(part for part in parts if isinstance(part, RequestError))
        costs = [cost for _, cost in answered]
        first = costs[0]
        add_cost(
            Cost(
                calls=1,
                samples=len(answered),
                prompt_tokens=first.prompt_tokens,
                cached_tokens=first.cached_tokens if cached is None else cached,
                sampled_tokens=sum(cost.sampled_tokens for cost in costs),
            )
        )
        return [completion for found, _ in answered for completion in found]

    async def _compute(self, prompt: str, slot: Slot[str]) -> int | None:
        """Compute a prompt in a slot without sampling, except its last token: each sample computes
        that one anyway. Returns the tokens that the slot had already, or None for a failure, which
        the samples will meet too. Raises `ContextLengthError`."""
        try:
            tokens = await self.tokens(prompt)
            body = {"prompt": list(tokens[:-1] or tokens), "id_slot": slot.number}
            body |= {"n_predict": 0, "cache_prompt": True}
            answer = await self._http.post("/completion", body, beside_v1=True)
        except ContextLengthError:
            raise
        except ModelError:
            return None
        timings = answer.get("timings") if isinstance(answer, dict) else None
        return int(timings.get("cache_n") or 0) if isinstance(timings, dict) else 0

    async def _sample(
        self, ask: CompletionRequest, *, keep: bool
    ) -> tuple[list[Completion], Cost] | RequestError:
        """One sample and its cost, or why it failed while others succeed."""
        async with self._slots.acquire(ask.prompt, keep=keep) as slot:
            try:
                found, cost = await self._http.sample(replace(ask, slot=slot.number))
            except RequestError as error:
                slot.holds = ""
                return error
            slot.holds = ask.prompt + "".join(completion.text for completion in found)
            return found, cost

    async def aclose(self) -> None:
        """Close the connections and free the weights."""
        await self._http.aclose()
        del self._server
        self._slots.close()


class TransformersModel:
    """A causal model and its tokenizer. `limit` is the most tokens of prompt and answer together;
    by default what the model was made for."""

    def __init__(self, name: str, model: Any, tokenizer: Any, *, limit: int | None = None) -> None:
        self.name = name
        self._model, self._tokenizer = model.eval(), tokenizer
        most = int(model.config.get_text_config().max_position_embeddings)
        self._limit = most if limit is None else min(limit, most)
        self._lock = threading.Lock()
        self.prompting = prompting_of_tokenizer(tokenizer, name)

    @classmethod
    def load(cls, base: str, *, limit: int | None = None) -> "TransformersModel":
        """The model of a checkpoint folder, or a name that transformers knows; on a GPU in
        bfloat16, else in float32. Raises `InputError` and `MissingDependencyError`."""
        from rstar_math.models.loading import load_policy

        model, tokenizer = load_policy(base)
        import torch

        if torch.cuda.is_available():
            model = model.to("cuda", torch.bfloat16)
        return cls(base, model, tokenizer, limit=limit)

    async def complete(
        self,
        prompt: str,
        *,
        n: int,
        stop: Sequence[str],
        max_tokens: int,
        temperature: float,
        seed: int,
    ) -> list[Completion]:
        """See `protocols.Completer`. The same request gives the same texts. Raises
        `ContextLengthError` where the prompt leaves no room for an answer."""
        tokens = list(self._tokenizer(prompt).input_ids)
        if len(tokens) >= self._limit:
            raise ContextLengthError(
                f"The prompt has {len(tokens)} tokens and {self.name} reads {self._limit} with its "
                "answer; shorten the question, or allow fewer steps."
            )
        room = min(max_tokens, self._limit - len(tokens))
        heat = (temperature, seed)
        samples = await asyncio.to_thread(self._sample, tokens, n, tuple(stop), room, heat)
        sampled = sum(len(sample.tokens) for sample in samples)
        add_cost(Cost(calls=1, samples=n, prompt_tokens=len(tokens), sampled_tokens=sampled))
        return [sample.completion() for sample in samples]

    async def aclose(self) -> None:
        """Free the weights."""
        del self._model

    def _sample(
        self,
        prompt: list[int],
        n: int,
        stops: tuple[str, ...],
        room: int,
        heat: tuple[float, int],
    ) -> "list[_Sample]":
        """Continuations of a prompt; `heat` is temperature and seed."""
        import torch

        samples = [_Sample() for _ in range(n)]
        with self._lock, torch.inference_mode():
            device = self._model.device
            generator = torch.Generator().manual_seed(heat[1])
            output = self._model(torch.tensor([prompt], device=device), use_cache=True)
            cache = output.cache
            cache.batch_repeat_interleave(n)
            logits = output.logits[:, -1].expand(n, -1)
            for _ in range(room):
                chosen = _sample_tokens(logits.float().cpu(), heat[0], generator)
                for sample, token in zip(samples, chosen.tolist(), strict=True):
                    self._take(sample, token, stops)
                if all(sample.finished for sample in samples):
                    break
                fed = chosen.to(device).unsqueeze(1)
                output = self._model(fed, cache=cache, use_cache=True)
                logits = output.logits[:, -1]
        return samples

    def _take(self, sample: "_Sample", token: int, stops: tuple[str, ...]) -> None:
        """One more token of a sample; a finished one is left as it is."""
        if sample.finished:
            return
        sample.tokens.append(token)
        if token == self._tokenizer.eos_token_id:
            sample.finished = True
            return
        text = self._tokenizer.decode(sample.tokens, clean_up_tokenization_spaces=False)
        ends = [(text.index(stop), stop) for stop in stops if stop in text]
        if ends:
            at, sample.stop = min(ends)
            sample.text, sample.finished = text[:at], True
        else:
            sample.text = text


@dataclass(slots=True)
class _Sample:
    """A text under way."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finished: bool = False
    stop: str | None = None

    def completion(self) -> Completion:
        """The finished text, its thoughts apart."""
        thoughts, text, whole = split_reasoning(self.text)
        ended = self.finished and whole
        return Completion(text, ended, self.stop, len(self.tokens), reasoning=thoughts)


def _sample_tokens(logits: Any, temperature: float, generator: Any) -> Any:
    """A token for each row, (N,); at temperature 0 the likeliest."""
    import torch

    if temperature == 0:
        return logits.argmax(dim=-1)
    chances = torch.softmax(logits / temperature, dim=-1)
    return torch.multinomial(chances, 1, generator=generator).squeeze(1)
