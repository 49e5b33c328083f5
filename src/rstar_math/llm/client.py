"""Any OpenAI-compatible server as a Completer: vLLM, SGLang, llama.cpp, hosted models.

Text completions with stop strings are used where the server has them; where it has only chat, the
prompt is sent as a message that asks to be continued. Refused and dropped connections and the
answers 408, 429 and 5xx are tried again with growing pauses; other refusals are not. A server that
says it has too much to do, or is too slow, is given fewer requests at once. Several servers of one
model share its requests (`replicas`); what one fails at, another is asked without a pause.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx

from rstar_math.concurrency import gather
from rstar_math.costs import add_cost
from rstar_math.errors import (
    ConfigError,
    ContextLengthError,
    ModelError,
    ModelRejectedError,
    ModelUnreachableError,
    RequestError,
)
from rstar_math.llm.balancing import TOO_SLOW, TRANSIENT_ERRORS, Replica, Replicas, affinity_key
from rstar_math.llm.formats import (
    CHAT,
    COMPLETIONS,
    CONTINUED_CHAT,
    LLAMA_CPP,
    VLLM_CHAT,
    CompletionRequest,
    RequestFormat,
    context_of,
    raw_format,
)
from rstar_math.llm.transport import NoSuchRoute, Reply, check_reply
from rstar_math.models.prompting import NOTHING_KNOWN, Prompting
from rstar_math.prompts.chat_templates import ChatTemplate
from rstar_math.prompts.rendering import ChatPrompt
from rstar_math.protocols import Completion
from rstar_math.seeding import derive
from rstar_math.text import sanitize
from rstar_math.types import Cost

_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_BUSY = frozenset({408, 409, 425, 429})
"""Of these, what a server says that is not in trouble."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how patiently a request is sent."""

    tries: int = 4
    """Further tries after the first."""
    timeout_s: float = 300.0
    """Longest time for one try."""
    pause_s: float = 0.5
    """First pause; doubles with each try, at most 30 s, times a random factor in [0.5, 1]."""


class OpenAIClient:
    """A Completer on an OpenAI-compatible server, or on several (addresses with commas between
    them) that run the same model. `batch` is the most samples it gives for one request,
    `concurrency` the most requests in flight at one server; `held` is called when it is closed."""

    def __init__(
        self,
        url: str,
        *,
        name: str | None = None,
        key: str | None = None,
        concurrency: int = 32,
        retry: Retry | None = None,
        affinity: bool = True,
        held: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.replicas = Replicas(addresses(url), key, concurrency, affinity=affinity)
        self.url = ",".join(replica.url for replica in self.replicas.all)
        self.name = name or ""
        self.batch = 128
        self.context_tokens: int | None = None
        self.dialect = COMPLETIONS
        self.chat_dialect = CHAT
        """How a `ChatPrompt` is sent."""
        self.prompting: Prompting = NOTHING_KNOWN
        """How the model wants to be asked, once `learn_prompting` has found out."""
        self._engine = ""
        self._completes = False
        self._retry = retry or Retry()
        self._held = held

    async def aclose(self) -> None:
        """Close all connections; requests in flight are cancelled."""
        try:
            await self.replicas.aclose()
        finally:
            held, self._held = self._held, None
            if held is not None:
                await held()

    async def check_server(self) -> None:
        """Check the address, the key and the model's name; settle the name where none was given.

        Raises `ModelUnreachableError` or `ModelRejectedError` at once: a server that is not there
        yet is not waited for. Of several one must be there; the others are used once they are.
        """
        away: list[ModelUnreachableError] = []
        for replica in self.replicas.all:
            try:
                await self._check_replica(replica)
            except ModelUnreachableError as error:
                self.replicas.failed(replica)
                away.append(error)
        if len(away) == len(self.replicas.all):
            raise away[0]
        self.replicas.serves = self._lists_model

    async def _check_replica(self, replica: Replica) -> None:
        """As `check_server`, for one server."""
        try:
            reply = await replica.get(f"{replica.url}/models", 30.0)
        except (httpx.InvalidURL, ValueError) as error:
            raise ConfigError(f"{replica.url} is not an address ({error}).") from error
        except TRANSIENT_ERRORS as error:
            raise ModelUnreachableError(
                f"No model server answers at {replica.url} ({_why(error)}); "
                "start it, or correct --model."
            ) from error
        if reply.status == 404 and self.name:
            return
        entries = _listed(self._checked(reply, replica.url))
        names = [str(entry.get("id")) for entry in entries]
        lengths = [*map(context_of, entries), self.context_tokens]
        self.context_tokens = min(filter(None, lengths), default=None)
        self._engine = next((str(e["owned_by"]) for e in entries if e.get("owned_by")), "")
        if self._engine == "llamacpp":
            self.dialect = LLAMA_CPP
        if not names:
            raise ModelRejectedError(
                f"The server at {replica.url} lists no model; load one there first."
            )
        if not self.name and len(names) == 1:
            self.name = names[0]
        elif self.name not in names:
            asked = f"has no model {self.name!r}" if self.name else "has several models"
            raise ModelRejectedError(
                f"The server at {replica.url} {asked}; "
                f"give --set model.name= one of: {', '.join(names[:20])}."
            )

    async def learn_prompting(self) -> None:
        """Find out whether the server continues a partly written assistant message, and read the
        model's chat template where the server shows it.

        llama.cpp shows the template; vLLM and SGLang continue messages if they have a chat route;
        of any other server a request of six tokens tells. Raises `ModelUnreachableError`: a server
        that does not answer now must not be taken for one without chat.
        """
        if self._engine == "llamacpp":
            self.prompting = await self._prompting_of_llama_cpp()
            return
        known = self._engine in ("vllm", "sglang")
        dialects = [VLLM_CHAT] if known else [CONTINUED_CHAT, VLLM_CHAT]
        for dialect in dialects:
            text = await self._continuation(dialect)
            if text is None:
                continue
            self.prompting = Prompting(chat=True)
            if known or text.lstrip().startswith("5"):
                self.chat_dialect = dialect
                self.prompting = Prompting(continues=True, chat=True)
                return

    async def _prompting_of_llama_cpp(self) -> Prompting:
        """What a llama.cpp server shows at /props."""
        replica = self.replicas.all[0]
        try:
            found = (await replica.get(f"{replica.root}/props", 30.0)).json()
        except TRANSIENT_ERRORS as error:
            raise ModelUnreachableError(
                f"The model server at {replica.url} does not answer ({_why(error)}); start it "
                "again."
            ) from error
        if not isinstance(found, dict):
            return NOTHING_KNOWN
        source = found.get("chat_template")
        if not isinstance(source, str) or not source:
            return NOTHING_KNOWN
        bos, eos = (str(found.get(f"{kind}_token") or "") for kind in ("bos", "eos"))
        return Prompting(template=ChatTemplate(source, bos, eos, replica.url))

    async def _continuation(self, dialect: RequestFormat) -> str | None:
        """How a model goes on with a count to four that it began; None where the server refuses."""
        count = ChatPrompt([("user", "Count from 1 to 9, separated by commas.")], "1, 2, 3, 4,")
        ask = CompletionRequest(self.name, count, 1, (), 6, 0.0, 0)
        try:
            completions, cost = dialect.parse(ask, await self._post(dialect, ask))
        except ModelRejectedError:
            return None
        add_cost(cost)
        return completions[0].text if completions else None

    def _lists_model(self, reply: Reply) -> bool:
        """Whether a list of models is that of a server of this model."""
        entries = _listed(reply.json()) if reply.status < 300 else []
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
        """See `protocols.Completer`. A server that gives fewer samples than asked is asked
        again."""
        ask = CompletionRequest(
            self.name, prompt, min(n, self.batch), tuple(stop), max_tokens, temperature, seed
        )
        first, given = await self._sample(ask)
        if not given:
            return []
        if given < ask.n:
            self.batch = given
        asks = [
            replace(ask, n=min(self.batch, n - at), seed=derive(seed, at))
            for at in range(given, n, self.batch)
        ]
        more = await gather(self._more(one) for one in asks)
        return [*first, *(completion for part, _ in more for completion in part)][:n]

    async def _more(self, ask: CompletionRequest) -> tuple[list[Completion], int]:
        """As `_sample`, for one of several requests: if it alone fails the others are kept."""
        try:
            return await self._sample(ask)
        except RequestError:
            return [], 0

    async def _sample(self, ask: CompletionRequest) -> tuple[list[Completion], int]:
        """One request's samples, and how many the server gave, readable or not."""
        completions, cost = await self.sample(ask)
        add_cost(cost)
        return completions, cost.samples

    async def sample(self, ask: CompletionRequest) -> tuple[list[Completion], Cost]:
        """One request's samples and what they cost, which is not charged here.

        Falls back to chat where a server that never answered has no completions.
        """
        chat = isinstance(ask.prompt, ChatPrompt)
        dialect = self.chat_dialect if chat else self.dialect
        try:
            try:
                answer = await self._post(dialect, ask)
            except NoSuchRoute:
                self.dialect = dialect = CHAT
                answer = await self._post(dialect, ask)
            completions, cost = dialect.parse(ask, answer)
        except ContextLengthError:
            raise
        except (ModelRejectedError, ModelUnreachableError) as error:
            add_cost(Cost(failures=1))
            if await self._answers(ask):
                raise RequestError(f"One request failed while others succeed: {error}") from error
            raise
        self._completes = self._completes or dialect is COMPLETIONS
        return completions, cost

    async def _answers(self, ask: CompletionRequest) -> bool:
        """Whether a server answers the same request about next to nothing: tells one that is
        down, or refuses the options, from one that cannot serve a certain prompt."""
        chat = isinstance(ask.prompt, ChatPrompt)
        dialect = self.chat_dialect if chat else self.dialect
        little = ChatPrompt([("user", "1 + 1 =")], "") if chat else "1 + 1 ="
        ask = replace(ask, prompt=little, max_tokens=1, slot=None)
        replica = self.replicas.select("", 1)
        try:
            where = _address(replica, dialect)
            timeout_s = min(30.0, self._retry.timeout_s)
            reply = await replica.post(where, dialect.build(ask), timeout_s)
            dialect.parse(ask, self._checked(reply, replica.url, dialect))
        except (*TRANSIENT_ERRORS, ModelError):
            return False
        return True

    async def post(
        self, route: str, body: dict[str, Any], *, beside_v1: bool = False, tokens: int = 1
    ) -> object:
        """The JSON answer to any request, tried again as `Retry` says; `tokens` is what it gives
        the server to do. Raises `ModelError`."""
        dialect, nothing = raw_format(route, body, beside_v1=beside_v1)
        return await self._post(dialect, replace(nothing, max_tokens=tokens))

    async def _post(self, dialect: RequestFormat, ask: CompletionRequest) -> object:
        """The JSON answer to one request, tried again as `Retry` says; with several servers, at
        another as long as there is one that was not asked yet."""
        body, tree, tokens = dialect.build(ask), affinity_key(ask.prompt), ask.n * ask.max_tokens
        pause, asked = self._retry.pause_s, list[Replica]()
        replica = self.replicas.select(tree, tokens)
        tries = self._retry.tries + len(self.replicas.all)
        for left in range(tries - 1, -1, -1):
            reply, trouble = await self._try(replica, dialect, body, tokens)
            if reply is not None and reply.status not in _AGAIN:
                return self._checked(reply, replica.url, dialect)
            if left:
                add_cost(Cost(retries=1))
                asked.append(replica)
                replica = self.replicas.select(tree, tokens, asked)
                if replica in asked:
                    wait = max(pause, reply.retry_after_s if reply else 0.0)
                    await asyncio.sleep(min(wait, 30.0) * random.uniform(0.5, 1.0))
                    pause *= 2
                    asked = []
        raise ModelUnreachableError(
            f"The model server at {self.url} gave no answer after {tries} "
            f"tries ({trouble}); see to the server, then run the same command again."
        )

    async def _try(
        self, replica: Replica, dialect: RequestFormat, body: object, tokens: int
    ) -> tuple[Reply | None, str]:
        """The reply to one try, or None; and what the trouble is, if any. Sent when its turn comes:
        pauses between tries hold up nobody."""
        try:
            where, timeout_s = _address(replica, dialect), self._retry.timeout_s
            reply = await replica.work(where, body, timeout_s, tokens)
        except TRANSIENT_ERRORS as error:
            self.replicas.failed(replica)
            return None, _why(error)
        if reply.status in _AGAIN - _BUSY:
            self.replicas.failed(replica)
        elif reply.status < 300:
            self.replicas.succeeded(replica)
        return reply, f"status {reply.status}: {reply.message}" if reply.status in _AGAIN else ""

    def _checked(self, reply: Reply, url: str, dialect: RequestFormat | None = None) -> object:
        """The JSON of a good answer; the right error for any other."""
        chat = dialect is COMPLETIONS and not self._completes
        try:
            return check_reply(reply, url, dialect.route if dialect else "/models")
        except NoSuchRoute as error:
            if chat:
                raise
            raise ModelRejectedError(str(error)) from error


def addresses(url: str) -> list[str]:
    """The addresses in a list with commas between them, each once."""
    return list(dict.fromkeys(part.strip().rstrip("/") for part in url.split(",") if part.strip()))


def _address(replica: Replica, dialect: RequestFormat) -> str:
    """Where a dialect is spoken at a server."""
    return (replica.root if dialect.outside_v1 else replica.url) + dialect.route


def _listed(body: object) -> list[dict[str, Any]]:
    """The entries of a server's list of models."""
    entries = body.get("data") if isinstance(body, dict) else None
    return [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []


def _why(error: Exception) -> str:
    """A transport error in words."""
    if isinstance(error, TOO_SLOW):
        return "it did not answer in time"
    if isinstance(error, httpx.ConnectError):
        return f"nothing listens there: {error}"
    return sanitize(str(error)) or "the connection was lost"


Tokens = tuple[int, ...]


async def tokens_of(http: OpenAIClient, text: str) -> Tokens:
    """A text in the tokens of a server of llama.cpp's or vLLM's kind, which have a route for it
    (with the field named differently)."""
    body = {"content": text, "prompt": text, "model": http.name, "add_special": True}
    body |= {"add_special_tokens": True, "parse_special": True}
    answer = await http.post("/tokenize", body, beside_v1=True)
    found = answer.get("tokens") if isinstance(answer, dict) else None
    if not isinstance(found, list) or not all(isinstance(token, int) for token in found):
        raise ModelRejectedError(
            f"{http.url} does not tell tokens at /tokenize; serve the preference model with "
            "llama.cpp or vLLM."
        )
    return tuple(found)
