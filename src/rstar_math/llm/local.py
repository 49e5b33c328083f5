"""Models in this process: llama.cpp, as a server on the loopback, and transformers."""

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
from rstar_math.confidence import LogprobOptions, summarize
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
from rstar_math.llm.client import OpenAIClient, Retry, tokenize
from rstar_math.llm.formats import LLAMA_CPP, CompletionRequest, split_reasoning
from rstar_math.llm.slots import STATE_FOLDER, DecodingSlots, Slot, can_save
from rstar_math.models.embedded import weights_file
from rstar_math.models.prompting import prompting_of_gguf, prompting_of_tokenizer
from rstar_math.protocols import Completion
from rstar_math.types import Cost

TIMEOUT_S = 86_400.0
"""Maximum time for a request to the embedded model, which is slow on a busy machine."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Settings of a llama.cpp server."""

    slots: int
    """Number of sequences decoded in parallel. Each slot has its own key/value cache (see
    `slots.py`)."""
    context_tokens: int
    """Maximum length of a sequence."""
    adapter: Path | None = None
    """A LoRA adapter that is added to the weights."""
    embeddings: bool = False
    """Whether the server returns last hidden states, not normalized, instead of text."""


def start_llama_cpp(path: Path, settings: EngineSettings) -> tuple[Any, str]:
    """Returns a running xllamacpp server and its API key.

    Raises `MissingDependencyError` without xllamacpp. Raises `ModelRejectedError`, or `InputError`
    with an adapter, if llama.cpp cannot load the files.
    """
    try:
        import xllamacpp
    except ImportError as error:
        raise MissingDependencyError(
            "The embedded model needs xllamacpp; type: pip install 'rstar-math[local]' "
            "(or use a server with --model http://host:port/v1)."
        ) from error
    key = secrets.token_urlsafe(24)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = settings.slots
    params.n_ctx = settings.slots * settings.context_tokens
    params.kv_unified = False
    params.cache_ram_mib = 0
    params.warmup = False
    # A file's chat template is untrusted code that llama.cpp would run without limits at load.
    # `prompts.chat_templates` renders prompts instead.
    params.use_jinja = False
    params.chat_template = "chatml"
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [key]
    params.endpoint_metrics = True
    params.ui = False
    params.verbosity = -1
    params.cpuparams.n_threads = len(os.sched_getaffinity(0))
    params.n_threads_http = settings.slots + 16
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
                f"llama.cpp cannot load {path} with the adapter {settings.adapter}: {error}; check "
                "that the adapter was trained on that model."
            ) from error
        raise ModelRejectedError(
            f"llama.cpp cannot load {path}: {error}; check that it is a complete GGUF file."
        ) from error


def engine_client(server: tuple[Any, str], name: str, concurrency: int) -> OpenAIClient:
    """Returns a client of a server that `start_llama_cpp` started."""
    return OpenAIClient(
        f"{server[0].listening_address}/v1",
        name=name,
        key=server[1],
        concurrency=concurrency,
        retry=Retry(max_retries=0, timeout_s=TIMEOUT_S),
    )


class LocalModel:
    """A Completer on a GGUF file, run by llama.cpp in this process.

    `model` is "local", "trained" or a path. `adapter` is the path of a LoRA adapter for it. The
    constructor loads the weights (about 1 s for SmolLM2-135M).
    """

    def __init__(
        self, model: str, *, slots: int, context_tokens: int, adapter: str | None = None
    ) -> None:
        path = weights_file(model)
        lora = Path(adapter).expanduser() if adapter else None
        if model not in (LOCAL, TRAINED):
            check_policy(path)
        if lora is not None:
            check_adapter(lora, path, kind="policy")
        self._server = start_llama_cpp(path, EngineSettings(slots, context_tokens, lora))
        self._client = engine_client(self._server, path.stem, 4 * slots)
        self._client.request_format = LLAMA_CPP
        self.prompting = prompting_of_gguf(path, lora)
        self.logprobs: LogprobOptions | None = None
        """See `OpenAIClient.logprobs`."""
        self._slots = DecodingSlots(self._client, slots, empty="")
        self.name = path.stem if lora is None else f"{path.stem}+{lora.stem}"

    @property
    def server(self) -> Any:
        """The xllamacpp server, for its metrics."""
        return self._server[0]

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Returns the tokens of a text."""
        return await tokenize(self._client, text)

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
        """See `protocols.Completer`. The prompt is computed once. Each sample then runs in its own
        slot, as soon as one is free. A sample that fails while others succeed is left out."""
        request = CompletionRequest(
            self._client.name, prompt, 1, tuple(stop), max_tokens, temperature, seed
        )
        request = replace(request, logprobs=self.logprobs)
        cached = await self._slots.share(prompt, n, partial(self._compute_prompt, prompt))
        requests = [replace(request, seed=(seed + index) % 2**32) for index in range(n)]
        results = await gather(self._sample(request, keep=n == 1) for request in requests)
        succeeded = [result for result in results if isinstance(result, tuple)]
        if not succeeded:
            raise next(result for result in results if isinstance(result, RequestError))
        costs = [cost for _, cost in succeeded]
        add_cost(
            Cost(
                calls=1,
                samples=len(succeeded),
                prompt_tokens=costs[0].prompt_tokens,
                cached_tokens=costs[0].cached_tokens if cached is None else cached,
                sampled_tokens=sum(cost.sampled_tokens for cost in costs),
            )
        )
        return [completion for completions, _ in succeeded for completion in completions]

    async def _compute_prompt(self, prompt: str, slot: Slot[str]) -> int | None:
        """Computes a prompt in a slot without sampling; returns how many tokens were cached there.

        Leaves out the last token, which each sample computes anyway. Returns None for a failure,
        which the samples will meet too. Raises `ContextLengthError`.
        """
        try:
            tokens = await self.tokenize(prompt)
            body = {"prompt": list(tokens[:-1] or tokens), "id_slot": slot.number}
            body |= {"n_predict": 0, "cache_prompt": True}
            reply = await self._client.post("/completion", body, outside_v1=True)
        except ContextLengthError:
            raise
        except ModelError:
            return None
        timings = reply.get("timings") if isinstance(reply, dict) else None
        return int(timings.get("cache_n") or 0) if isinstance(timings, dict) else 0

    async def _sample(
        self, request: CompletionRequest, *, keep: bool
    ) -> tuple[list[Completion], Cost] | RequestError:
        """Returns one sample and its cost, or the error if it failed while others succeed."""
        async with self._slots.acquire(request.prompt, keep=keep) as slot:
            try:
                completions, cost = await self._client.sample(replace(request, slot=slot.number))
            except RequestError as error:
                slot.content = ""
                return error
            slot.content = request.prompt + "".join(c.text for c in completions)
            return completions, cost

    async def aclose(self) -> None:
        """Closes the connections and frees the weights."""
        await self._client.aclose()
        del self._server
        self._slots.close()


class TransformersModel:
    """A Completer on a causal model of transformers and its tokenizer.

    `max_tokens` limits prompt and answer together; it defaults to the model's own limit.
    """

    def __init__(
        self, name: str, model: Any, tokenizer: Any, *, max_tokens: int | None = None
    ) -> None:
        self.name = name
        self._model, self._tokenizer = model.eval(), tokenizer
        model_limit = int(model.config.get_text_config().max_position_embeddings)
        self._max_tokens = model_limit if max_tokens is None else min(max_tokens, model_limit)
        self._lock = threading.Lock()
        self.logprobs: LogprobOptions | None = None
        """See `OpenAIClient.logprobs`."""
        self.prompting = prompting_of_tokenizer(tokenizer, name)

    @classmethod
    def load(cls, base: str, *, max_tokens: int | None = None) -> "TransformersModel":
        """Returns the model of a checkpoint folder, or of a name that transformers knows.

        The model runs in bfloat16 on a GPU, and in float32 otherwise. Raises `InputError` or
        `MissingDependencyError`.
        """
        from rstar_math.models.loading import load_policy

        model, tokenizer = load_policy(base)
        import torch

        if torch.cuda.is_available():
            model = model.to("cuda", torch.bfloat16)
        return cls(base, model, tokenizer, max_tokens=max_tokens)

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
        """See `protocols.Completer`. Equal requests give equal texts. Raises `ContextLengthError`
        if the prompt leaves no room for an answer."""
        tokens = list(self._tokenizer(prompt).input_ids)
        if len(tokens) >= self._max_tokens:
            raise ContextLengthError(
                f"The prompt has {len(tokens)} tokens, but {self.name} reads at most "
                f"{self._max_tokens} with its answer; shorten the question or allow fewer steps."
            )
        max_new_tokens = min(max_tokens, self._max_tokens - len(tokens))
        sampling = (temperature, seed)
        samples = await asyncio.to_thread(
            self._sample, tokens, n, tuple(stop), max_new_tokens, sampling
        )
        sampled = sum(len(sample.tokens) for sample in samples)
        add_cost(Cost(calls=1, samples=n, prompt_tokens=len(tokens), sampled_tokens=sampled))
        return [sample.completion(self.logprobs) for sample in samples]

    async def aclose(self) -> None:
        """Frees the weights."""
        del self._model

    def _sample(
        self,
        prompt: list[int],
        n: int,
        stops: tuple[str, ...],
        max_new_tokens: int,
        sampling: tuple[float, int],
    ) -> "list[_Sample]":
        """Returns `n` continuations of a prompt; `sampling` is the temperature and the seed."""
        import torch

        temperature, seed = sampling
        samples = [_Sample() for _ in range(n)]
        with self._lock, torch.inference_mode():
            device = self._model.device
            generator = torch.Generator().manual_seed(seed)
            output = self._model(torch.tensor([prompt], device=device), use_cache=True)
            cache = output.cache
            cache.batch_repeat_interleave(n)
            logits = output.logits[:, -1].expand(n, -1)
            for _ in range(max_new_tokens):
                scores = logits.float().cpu()
                chosen = _sample_tokens(scores, temperature, generator)
                if self.logprobs is not None:
                    _append_logprobs(samples, scores, chosen, self.logprobs.alternatives)
                for sample, token in zip(samples, chosen.tolist(), strict=True):
                    self._append_token(sample, token, stops)
                if all(sample.finished for sample in samples):
                    break
                next_input = chosen.to(device).unsqueeze(1)
                output = self._model(next_input, cache=cache, use_cache=True)
                logits = output.logits[:, -1]
        return samples

    def _append_token(self, sample: "_Sample", token: int, stops: tuple[str, ...]) -> None:
        """Adds a token to a sample, unless the sample is finished."""
        if sample.finished:
            return
        sample.tokens.append(token)
        if token == self._tokenizer.eos_token_id:
            sample.finished = True
            return
        text = self._tokenizer.decode(sample.tokens, clean_up_tokenization_spaces=False)
        found = [(text.index(stop), stop) for stop in stops if stop in text]
        if found:
            at, sample.stop = min(found)
            sample.text, sample.finished = text[:at], True
        else:
            sample.text = text


@dataclass(slots=True)
class _Sample:
    """A text that is being sampled."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finished: bool = False
    stop: str | None = None
    logprobs: list[float] = field(default_factory=list)
    alternatives: list[list[float]] = field(default_factory=list)

    def completion(self, options: LogprobOptions | None) -> Completion:
        """Returns the completion, with its reasoning split off."""
        reasoning, text, ended = split_reasoning(self.text)
        stats = None
        if options is not None:
            stats = summarize(self.logprobs, self.alternatives, options)
        finished = self.finished and ended
        return Completion(text, finished, self.stop, len(self.tokens), reasoning, stats)


def _append_logprobs(samples: "list[_Sample]", logits: Any, chosen: Any, k: int) -> None:
    """Adds the log-probabilities of the chosen tokens, and of the `k` most probable ones, to the
    unfinished samples. As on servers, they do not depend on the temperature."""
    logprobs = logits.log_softmax(dim=-1)
    picked = logprobs.gather(1, chosen.unsqueeze(1)).squeeze(1).tolist()
    tops = logprobs.topk(k, dim=-1).values.tolist() if k else [[]] * len(samples)
    for sample, value, top in zip(samples, picked, tops, strict=True):
        if not sample.finished:
            sample.logprobs.append(value)
            sample.alternatives.append(top)


def _sample_tokens(logits: Any, temperature: float, generator: Any) -> Any:
    """Returns a token for each row, (N,); the most probable one at temperature 0."""
    import torch

    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = torch.softmax(logits / temperature, dim=-1)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
