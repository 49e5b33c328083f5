"""Any OpenAI-compatible server as a Completer: vLLM, SGLang, llama.cpp, hosted models.

The client uses text completions with stop strings if the server has them. Otherwise it sends the
prompt as a chat message that asks for its continuation. It retries refused and dropped connections
and the statuses 408, 409, 425, 429 and 5xx with growing pauses. An overloaded or slow
server gets fewer requests at a time. Several servers of one model share its requests (`replicas`);
a request that one server fails goes to another without a pause.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

from rstar_math.concurrency import gather
from rstar_math.confidence import LogprobOptions
from rstar_math.costs import add_cost
from rstar_math.errors import (
    ConfigError,
    ContextLengthError,
    ModelError,
    ModelRejectedError,
    ModelUnreachableError,
    RequestError,
)
from rstar_math.llm.balancing import (
    TIMEOUT_ERRORS,
    TRANSIENT_ERRORS,
    Replica,
    Replicas,
    affinity_key,
)
from rstar_math.llm.formats import (
    CHAT,
    COMPLETIONS,
    CONTINUED_CHAT,
    LLAMA_CPP,
    VLLM_CHAT,
    CompletionRequest,
    RequestFormat,
    context_length,
    raw_format,
)
from rstar_math.llm.replies import (
    Reply,
    RouteNotFoundError,
    check_reply,
    error_in_body,
    is_context_length_error,
)
from rstar_math.models.prompting import NOTHING_KNOWN, Prompting
from rstar_math.prompts.chat_templates import ChatTemplate
from rstar_math.prompts.rendering import ChatPrompt
from rstar_math.protocols import Completion
from rstar_math.seeding import derive
from rstar_math.text import sanitize
from rstar_math.types import Cost

_RETRIED_STATUSES = frozenset({408, 409, 425, 429, *range(500, 600)})
_BUSY_STATUSES = frozenset({408, 409, 425, 429})
"""Statuses of a healthy server that is only busy. They do not take the server out of use."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a request is retried, and when."""

    max_retries: int = 4
    timeout_s: float = 300.0
    """Maximum time for one attempt."""
    pause_s: float = 0.5
    """First pause. It doubles with each retry, up to 30 s, times a random factor in [0.5, 1]."""


def _images(request: CompletionRequest) -> int:
    """The number of pictures in a request."""
    return len(request.prompt.images) if isinstance(request.prompt, ChatPrompt) else 0


class OpenAIClient:
    """A Completer on an OpenAI-compatible server, or on several servers of the same model.

    `url` is one address, or several separated by commas. `concurrency` is the maximum number of
    requests in flight per server. `aclose` calls `on_close`. `batch` is the maximum number of
    samples per request; it shrinks if the server returns fewer.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str | None = None,
        key: str | None = None,
        concurrency: int = 32,
        retry: Retry | None = None,
        affinity: bool = True,
        on_close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.replicas = Replicas(split_addresses(url), key, concurrency, affinity=affinity)
        self.url = ",".join(replica.url for replica in self.replicas.all)
        self.name = name or ""
        self.batch = 128
        self.context_tokens: int | None = None
        """Maximum sequence length, if a server reports it."""
        self.request_format = COMPLETIONS
        """Format for a plain text prompt."""
        self.chat_format = CHAT
        """Format for a `ChatPrompt`."""
        self.accepts_images = True
        """Whether pictures can be sent: the server decides whether its model reads them."""
        self.prompting: Prompting = NOTHING_KNOWN
        """Chat template and chat features of the model, set by `learn_prompting`."""
        self.logprobs: LogprobOptions | None = None
        """Token log-probabilities that are requested with every sample; None requests none."""
        self._engine = ""
        self._has_completions = False
        self._retry = retry or Retry()
        self._on_close = on_close

    async def aclose(self) -> None:
        """Closes all connections; requests in flight are cancelled."""
        try:
            await self.replicas.aclose()
        finally:
            on_close, self._on_close = self._on_close, None
            if on_close is not None:
                await on_close()

    async def check_server(self) -> None:
        """Checks the address, the key and the model's name; finds the name if none was given.

        Raises `ConfigError`, `ModelUnreachableError` or `ModelRejectedError` without retrying. Of
        several servers, one must answer; the others are used as soon as they do.
        """
        unreachable: list[ModelUnreachableError] = []
        for replica in self.replicas.all:
            try:
                await self._check_replica(replica)
            except ModelUnreachableError as error:
                self.replicas.mark_failed(replica)
                unreachable.append(error)
        if len(unreachable) == len(self.replicas.all):
            raise unreachable[0]
        self.replicas.serves_model = self._lists_model

    async def _check_replica(self, replica: Replica) -> None:
        try:
            reply = await replica.get(f"{replica.url}/models", 30.0)
        except ValueError as error:  # aiohttp's InvalidURL is one
            raise ConfigError(f"{replica.url} is not an address ({error}).") from error
        except TRANSIENT_ERRORS as error:
            raise ModelUnreachableError(
                f"No model server answers at {replica.url} ({_describe(error)}); "
                "start it, or correct --model."
            ) from error
        if reply.status == 404 and self.name:
            return
        entries = _model_entries(self._check_reply(reply, replica.url))
        names = [str(entry.get("id")) for entry in entries]
        lengths = [*map(context_length, entries), self.context_tokens]
        self.context_tokens = min(filter(None, lengths), default=None)
        self._engine = next((str(e["owned_by"]) for e in entries if e.get("owned_by")), "")
        if self._engine == "llamacpp":
            self.request_format = LLAMA_CPP
        if not names:
            raise ModelRejectedError(f"The server at {replica.url} has no model; load one first.")
        if not self.name and len(names) == 1:
            self.name = names[0]
        elif self.name not in names:
            problem = f"has no model {self.name!r}" if self.name else "has several models"
            raise ModelRejectedError(
                f"The server at {replica.url} {problem}; "
                f"give --set model.name= one of: {', '.join(names[:20])}."
            )

    async def learn_prompting(self) -> None:
        """Finds out whether the server continues a partly written assistant message, and reads the
        model's chat template if the server shows it.

        llama.cpp shows the template. vLLM and SGLang continue messages if they have a chat route.
        Any other server is tested with a request of six tokens. Raises `ModelUnreachableError`, so
        that a server that does not answer now is not taken for one without chat.
        """
        if self._engine == "llamacpp":
            self.prompting = await self._llama_cpp_prompting()
            return
        continues = self._engine in ("vllm", "sglang")
        formats = [VLLM_CHAT] if continues else [CONTINUED_CHAT, VLLM_CHAT]
        for request_format in formats:
            text = await self._test_continuation(request_format)
            if text is None:
                continue
            self.prompting = Prompting(chat=True)
            if continues or text.lstrip().startswith("5"):
                self.chat_format = request_format
                self.prompting = Prompting(continues=True, chat=True)
                return

    async def _llama_cpp_prompting(self) -> Prompting:
        """Returns what a llama.cpp server shows at /props."""
        replica = self.replicas.all[0]
        try:
            props = (await replica.get(f"{replica.root}/props", 30.0)).json()
        except TRANSIENT_ERRORS as error:
            raise ModelUnreachableError(
                f"The model server at {replica.url} does not answer ({_describe(error)}); start it "
                "again."
            ) from error
        if not isinstance(props, dict):
            return NOTHING_KNOWN
        source = props.get("chat_template")
        if not isinstance(source, str) or not source:
            return NOTHING_KNOWN
        bos, eos = (str(props.get(f"{kind}_token") or "") for kind in ("bos", "eos"))
        return Prompting(template=ChatTemplate(source, bos, eos, replica.url))

    async def _test_continuation(self, request_format: RequestFormat) -> str | None:
        """Returns how the model continues a message that counts to four; None if the server
        rejects the request."""
        prompt = ChatPrompt([("user", "Count from 1 to 9, separated by commas.")], "1, 2, 3, 4,")
        request = CompletionRequest(self.name, prompt, 1, (), 6, 0.0, 0)
        try:
            reply = await self._post(request_format, request)
            completions, cost = request_format.parse(request, reply)
        except ModelRejectedError:
            return None
        add_cost(cost)
        return completions[0].text if completions else None

    def _lists_model(self, reply: Reply) -> bool:
        """Whether the reply to /models comes from a server of this model."""
        entries = _model_entries(reply.json()) if reply.status < 300 else []
        return reply.status == 404 or any(entry.get("id") == self.name for entry in entries)

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
        """See `protocols.Completer`. If the server returns fewer samples than requested, further
        requests get the rest."""
        request = CompletionRequest(
            self.name, prompt, min(n, self.batch), tuple(stop), max_tokens, temperature, seed
        )
        request = replace(request, logprobs=self.logprobs)
        first, returned = await self._sample_and_charge(request)
        if not returned:
            return []
        if returned < request.n:
            self.batch = returned
        requests = [
            replace(request, n=min(self.batch, n - start), seed=derive(seed, start))
            for start in range(returned, n, self.batch)
        ]
        parts = await gather(self._sample_or_skip(request) for request in requests)
        return [*first, *(completion for part in parts for completion in part)][:n]

    async def _sample_or_skip(self, request: CompletionRequest) -> list[Completion]:
        """Returns the samples of one of several requests; none if it fails while others succeed."""
        try:
            return (await self._sample_and_charge(request))[0]
        except RequestError:
            return []

    async def _sample_and_charge(self, request: CompletionRequest) -> tuple[list[Completion], int]:
        """Returns a request's samples, and how many the server sent, readable or not."""
        completions, cost = await self.sample(request)
        add_cost(cost)
        return completions, cost.samples

    async def sample(self, request: CompletionRequest) -> tuple[list[Completion], Cost]:
        """Returns a request's samples and their cost, which the caller must charge.

        Switches to chat if the server turns out to have no completions route. Raises `ModelError`:
        `RequestError` if the server answers other requests, and the original error otherwise.
        """
        request_format = self._format_for(request)
        try:
            try:
                reply = await self._post(request_format, request)
            except RouteNotFoundError:
                self.request_format = request_format = CHAT
                reply = await self._post(request_format, request)
            completions, cost = request_format.parse(request, reply)
        except ContextLengthError:
            raise
        except (ModelRejectedError, ModelUnreachableError) as error:
            add_cost(Cost(failures=1))
            if isinstance(error, ModelRejectedError) and _images(request):
                raise ModelRejectedError(
                    f"The server refused a picture ({error}); use a multimodal model, or let one "
                    "transcribe pictures: --set problems.describe=MODEL."
                ) from error
            if await self._answers_tiny_prompt(request):
                raise RequestError(f"One request failed while others succeed: {error}") from error
            raise
        self._has_completions = self._has_completions or request_format is COMPLETIONS
        cost.images += _images(request)
        if request.logprobs is not None and completions:
            check_logprobs(completions, request.logprobs, self.url)
        return completions, cost

    def _format_for(self, request: CompletionRequest) -> RequestFormat:
        is_chat = isinstance(request.prompt, ChatPrompt)
        return self.chat_format if is_chat else self.request_format

    async def _answers_tiny_prompt(self, request: CompletionRequest) -> bool:
        """Whether a server answers the same request with a tiny prompt.

        If not, the server is down or rejects the options; if so, the prompt is at fault.
        """
        is_chat = isinstance(request.prompt, ChatPrompt)
        prompt = ChatPrompt([("user", "1 + 1 =")], "") if is_chat else "1 + 1 ="
        request = replace(request, prompt=prompt, max_tokens=1, slot=None)
        request_format = self._format_for(request)
        replica = self.replicas.select("", 1)
        try:
            reply = await replica.post(
                _address(replica, request_format),
                replica.workarounds.apply(request_format.build(request)),
                min(30.0, self._retry.timeout_s),
            )
            request_format.parse(request, self._check_reply(reply, replica.url, request_format))
        except (*TRANSIENT_ERRORS, ModelError):
            return False
        return True

    async def post(
        self, route: str, body: dict[str, Any], *, outside_v1: bool = False, tokens: int = 1
    ) -> object:
        """Returns the JSON reply to any request, with retries. Raises `ModelError`.

        `tokens` is the number of tokens that the server has to process, used for balancing.
        """
        request_format, empty = raw_format(route, body, outside_v1=outside_v1)
        return await self._post(request_format, replace(empty, max_tokens=tokens))

    async def _post(self, request_format: RequestFormat, request: CompletionRequest) -> object:
        """Returns the JSON reply to a request, with retries.

        Each retry goes to a server that has not failed this request yet. When all have, the client
        pauses before the next round.
        """
        body, tree = request_format.build(request), affinity_key(request.prompt)
        tokens = request.n * request.max_tokens
        pause_s, failed = self._retry.pause_s, list[Replica]()
        replica = self.replicas.select(tree, tokens)
        attempts = self._retry.max_retries + len(self.replicas.all)
        for remaining in range(attempts - 1, -1, -1):
            reply, failure = await self._attempt(replica, request_format, body, tokens)
            if reply is not None and not failure:
                return self._check_reply(reply, replica.url, request_format)
            if remaining:
                add_cost(Cost(retries=1))
                failed.append(replica)
                replica = self.replicas.select(tree, tokens, failed)
                if replica in failed:
                    wait_s = min(pause_s, 30.0) * random.uniform(0.5, 1.0)
                    requested_s = min(reply.retry_after_s, 60.0) if reply else 0.0
                    await asyncio.sleep(max(wait_s, requested_s))
                    pause_s *= 2
                    failed = []
        raise ModelUnreachableError(
            f"The model server at {self.url} did not answer after {attempts} "
            f"attempts ({failure}); check the server, then run the same command again."
        )

    async def _attempt(
        self, replica: Replica, request_format: RequestFormat, body: dict[str, Any], tokens: int
    ) -> tuple[Reply | None, str]:
        """Returns the reply to one attempt, or None, and a description of a transient failure."""
        address = _address(replica, request_format)
        try:
            reply = await self._send_accepted(replica, address, body, tokens)
        except TRANSIENT_ERRORS as error:
            self.replicas.mark_failed(replica)
            return None, _describe(error)
        if reply.status < 300 and (fault := error_in_body(reply)) is not None:
            return reply, fault
        if reply.status in _RETRIED_STATUSES and not is_context_length_error(reply):
            if reply.status not in _BUSY_STATUSES:
                self.replicas.mark_failed(replica)
            return reply, f"status {reply.status}: {reply.message}"
        if reply.status < 300:
            self.replicas.mark_healthy(replica)
        return reply, ""

    async def _send_accepted(
        self, replica: Replica, address: str, body: dict[str, Any], tokens: int
    ) -> Reply:
        """Returns the reply to a request, without the fields that the server refuses."""
        while True:
            sent = replica.workarounds.apply(body)
            reply = await replica.post_limited(address, sent, self._retry.timeout_s, tokens)
            if not replica.workarounds.learn(reply, sent):
                return reply

    def _check_reply(
        self, reply: Reply, url: str, request_format: RequestFormat | None = None
    ) -> object:
        """Returns the JSON of a successful reply, and raises a `ModelError` for any other.

        `RouteNotFoundError` is raised only while it is unknown whether the server has completions.
        """
        may_switch = request_format is COMPLETIONS and not self._has_completions
        try:
            return check_reply(reply, url, request_format.route if request_format else "/models")
        except RouteNotFoundError as error:
            if may_switch:
                raise
            raise ModelRejectedError(str(error)) from error


def check_logprobs(completions: Sequence[Completion], options: LogprobOptions, url: str) -> None:
    """Raises `ModelRejectedError` if the completions lack the log-probabilities of the options."""
    known = [each.token_stats for each in completions if each.token_stats is not None]
    texts = any(each.text for each in completions)
    if not known and texts:
        raise ModelRejectedError(
            f"The server at {url} returns no token log-probabilities, which confidence needs; use "
            "a server that does (vLLM, SGLang, llama.cpp), or set another search.scorer, "
            "search.answer or search.chain_stop."
        )
    if options.alternatives and any(stats.certainty is None for stats in known):
        raise ModelRejectedError(
            f"The server at {url} returns no {options.alternatives} most probable tokens, which "
            "search.confidence_measure needs; set it to mean, tail or lowest."
        )


def split_addresses(url: str) -> list[str]:
    """Returns the addresses in a comma-separated list, without duplicates."""
    return list(dict.fromkeys(part.strip().rstrip("/") for part in url.split(",") if part.strip()))


def _address(replica: Replica, request_format: RequestFormat) -> str:
    return (replica.root if request_format.outside_v1 else replica.url) + request_format.route


def _model_entries(body: object) -> list[dict[str, Any]]:
    """Returns the entries of a server's list of models."""
    entries = body.get("data") if isinstance(body, dict) else None
    return [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []


def _describe(error: Exception) -> str:
    """Returns a short description of a transport error."""
    if isinstance(error, TIMEOUT_ERRORS):
        return "it did not answer in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"nothing listens there: {error.os_error}"
    return sanitize(str(error)) or "the connection was lost"


Tokens = tuple[int, ...]


async def tokenize(client: OpenAIClient, text: str) -> Tokens:
    """Returns the tokens of a text, with special tokens. Raises `ModelError`.

    Works with llama.cpp and vLLM, whose /tokenize routes name the text field differently.
    """
    body = {"content": text, "prompt": text, "model": client.name, "add_special": True}
    body |= {"add_special_tokens": True, "parse_special": True}
    reply = await client.post("/tokenize", body, outside_v1=True)
    tokens = reply.get("tokens") if isinstance(reply, dict) else None
    if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
        raise ModelRejectedError(
            f"{client.url} does not return tokens at /tokenize; serve the preference model with "
            "llama.cpp or vLLM."
        )
    return tuple(tokens)
