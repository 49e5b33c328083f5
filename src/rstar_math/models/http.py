"""Any OpenAI-compatible server as a Completer: vLLM, SGLang, llama.cpp, hosted models.

Text completions with stop strings are used where the server has them; where it has only chat, the
prompt is sent as a message that asks to be continued. Refused and dropped connections and the
answers 408, 429 and 5xx are tried again with growing pauses; other refusals are not. A server that
says it has too much to do, or is too slow, is given fewer requests at once.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx

from rstar_math.errors import (
    ConfigError,
    ContextExceeded,
    ModelError,
    ModelRefused,
    ModelUnreachable,
    RequestFailed,
)
from rstar_math.foreign import plain
from rstar_math.meter import charge
from rstar_math.models.dialects import CHAT, COMPLETIONS, LLAMA_CPP, Ask, Dialect, bare, context_of
from rstar_math.models.lanes import Lanes, Sending
from rstar_math.models.limiter import Limiter
from rstar_math.models.reply import Reply, retry_after_s
from rstar_math.protocols import Completion
from rstar_math.seeding import derive
from rstar_math.tasks import together
from rstar_math.types import Cost

_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_OVERLOAD = frozenset({429, 503})
_TOO_SLOW = (TimeoutError, httpx.TimeoutException)
_TROUBLE = (httpx.RequestError, TimeoutError)
_MAX_BYTES = 64 << 20
"""Largest reply read, in bytes: hundreds of samples of thousands of tokens."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how patiently a request is sent."""

    tries: int = 4
    """Further tries after the first."""
    timeout_s: float = 300.0
    """Longest time for one try."""
    pause_s: float = 0.5
    """First pause; doubles with each try, at most 30 s, times a random factor in [0.5, 1]."""


class HttpModel:
    """A Completer on an OpenAI-compatible server. `batch` is the most samples it gives for one
    request."""

    def __init__(
        self,
        url: str,
        *,
        name: str | None = None,
        key: str | None = None,
        concurrency: int = 32,
        retry: Retry | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.name = name or ""
        self.batch = 128
        self.context_tokens: int | None = None
        self.dialect = COMPLETIONS
        self._completes = False
        self._retry = retry or Retry()
        self._limiter = Limiter(concurrency)
        self._lanes = Lanes(self.url, key)

    async def aclose(self) -> None:
        """Close all connections; requests in flight are cancelled."""
        await self._lanes.aclose()

    async def greet(self) -> None:
        """Check the address, the key and the model's name; settle the name where none was given.

        Raises `ModelUnreachable` or `ModelRefused` at once: a server that is not there yet is not
        waited for.
        """
        try:
            request = self._lanes.sending("GET", f"{self.url}/models")
            reply = await self._send(request, 30.0)
        except (httpx.InvalidURL, ValueError) as error:
            raise ConfigError(f"{self.url} is not an address ({error}).") from error
        except _TROUBLE as error:
            raise ModelUnreachable(
                f"No model server answers at {self.url} ({_why(error)}); "
                "start it, or correct --model."
            ) from error
        if reply.status == 404 and self.name:
            return
        entries = _listed(self._checked(reply))
        names = [str(entry.get("id")) for entry in entries]
        self.context_tokens = min(filter(None, map(context_of, entries)), default=None)
        if any(entry.get("owned_by") == "llamacpp" for entry in entries):
            self.dialect = LLAMA_CPP
        if not names:
            raise ModelRefused(f"The server at {self.url} lists no model; load one there first.")
        if not self.name and len(names) == 1:
            self.name = names[0]
        elif self.name not in names:
            asked = f"has no model {self.name!r}" if self.name else "has several models"
            raise ModelRefused(
                f"The server at {self.url} {asked}; "
                f"give --set model.name= one of: {', '.join(names[:20])}."
            )

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
        ask = Ask(self.name, prompt, min(n, self.batch), tuple(stop), max_tokens, temperature, seed)
        first, given = await self._sample(ask)
        if not given:
            return []
        if given < ask.n:
            self.batch = given
        asks = [
            replace(ask, n=min(self.batch, n - at), seed=derive(seed, at))
            for at in range(given, n, self.batch)
        ]
        more = await together(self._more(one) for one in asks)
        return [*first, *(completion for part, _ in more for completion in part)][:n]

    async def _more(self, ask: Ask) -> tuple[list[Completion], int]:
        """As `_sample`, for one of several requests: if it alone fails the others are kept."""
        try:
            return await self._sample(ask)
        except RequestFailed:
            return [], 0

    async def _sample(self, ask: Ask) -> tuple[list[Completion], int]:
        """One request's samples, and how many the server gave, readable or not.

        Falls back to chat where a server that never answered has no completions.
        """
        try:
            try:
                answer = await self._post(self.dialect, ask)
            except _NoSuchRoute:
                self.dialect = CHAT
                answer = await self._post(self.dialect, ask)
            completions, cost = self.dialect.read(ask, answer)
        except ContextExceeded:
            raise
        except (ModelRefused, ModelUnreachable) as error:
            charge(Cost(failures=1))
            if await self._answers(ask):
                raise RequestFailed(f"One request failed while others succeed: {error}") from error
            raise
        self._completes = self._completes or self.dialect is COMPLETIONS
        charge(cost)
        return completions, cost.samples

    async def _answers(self, ask: Ask) -> bool:
        """Whether the server answers the same request about next to nothing: tells one that is
        down, or refuses the options, from one that cannot serve a certain prompt."""
        ask = replace(ask, prompt="1 + 1 =", max_tokens=1)
        try:
            request = self._request(self.dialect, ask)
            reply = await self._send(request, min(30.0, self._retry.timeout_s))
            self.dialect.read(ask, self._checked(reply, self.dialect))
        except (*_TROUBLE, ModelError):
            return False
        return True

    def _request(self, dialect: Dialect, ask: Ask) -> Sending:
        """A request as a dialect says it."""
        root = self.url.removesuffix("/v1") if dialect.outside_v1 else self.url
        return self._lanes.sending("POST", root + dialect.route, dialect.say(ask))

    async def post(self, route: str, body: dict[str, Any], *, beside_v1: bool = False) -> object:
        """The JSON answer to any request, tried again as `Retry` says. Raises `ModelError`."""
        return await self._post(*bare(route, body, beside_v1=beside_v1))

    async def _post(self, dialect: Dialect, ask: Ask) -> object:
        """The JSON answer to one request, tried again as `Retry` says."""
        request = self._request(dialect, ask)
        pause = self._retry.pause_s
        for left in range(self._retry.tries, -1, -1):
            wait = pause
            try:
                reply = await self._try(request)
            except _TROUBLE as error:
                trouble: str = _why(error)
            else:
                if reply.status not in _AGAIN:
                    return self._checked(reply, dialect)
                trouble = f"status {reply.status}: {reply.message}"
                wait = max(wait, reply.retry_after_s)
            if left:
                charge(Cost(retries=1))
                await asyncio.sleep(min(wait, 30.0) * random.uniform(0.5, 1.0))
                pause *= 2
        raise ModelUnreachable(
            f"The model server at {self.url} gave no answer after {self._retry.tries + 1} "
            f"tries ({trouble}); see to the server, then run the same command again."
        )

    async def _try(self, request: Sending) -> Reply:
        """The reply to one try, sent when its turn comes; pauses between tries hold up nobody."""
        async with self._limiter:
            since = self._limiter.cuts
            try:
                reply = await self._send(request, self._retry.timeout_s)
            except _TOO_SLOW:
                self._limiter.overloaded(since)
                raise
            if reply.status in _OVERLOAD:
                self._limiter.overloaded(since)
            elif reply.status < 300:
                self._limiter.succeeded()
            return reply

    async def _send(self, request: Sending, timeout_s: float) -> Reply:
        """The whole reply, in at most `timeout_s` seconds and `_MAX_BYTES` bytes."""
        async with asyncio.timeout(timeout_s):
            answer = await self._lanes.send(request, _MAX_BYTES)
        if answer.too_long:
            raise ModelRefused(
                f"{self.url} sent more than {_MAX_BYTES >> 20} MiB for one request; "
                "is it a model server?"
            )
        pause_s = retry_after_s(answer.headers.get("retry-after"))
        return Reply(answer.status, bytes(answer.body), pause_s)

    def _checked(self, reply: Reply, dialect: Dialect | None = None) -> object:
        """The JSON of a good answer; the right error for any other."""
        status = reply.status
        if status < 300:
            body = reply.json()
            if body is None:
                raise ModelRefused(
                    f"{self.url} did not answer in JSON; is it an OpenAI-compatible server, "
                    "and does the address end in /v1?"
                )
            return body
        said = reply.message
        if status < 400:
            raise ModelRefused(f"{self.url} sends elsewhere (status {status}); give that address.")
        if status in (401, 403):
            raise ModelRefused(
                f"{self.url} refused the key ({said}); put the right one into the environment "
                "variable that model.api_key_env names."
            )
        chat_only = "chat/completions" in said or "chat model" in said
        if status in (404, 405) and (chat_only or "model" not in said.lower()):
            if dialect is COMPLETIONS and not self._completes:
                raise _NoSuchRoute(said)
            raise ModelRefused(
                f"{self.url} has no {dialect.route if dialect else '/models'}; "
                "does the address end in /v1?"
            )
        if status == 400 and ("context" in said.lower() or "too long" in said.lower()):
            raise ContextExceeded(f"The prompt does not fit the model's context ({said}).")
        raise ModelRefused(f"{self.url} refused the request (status {status}: {said}).")


class _NoSuchRoute(ModelError):
    """The server does not know a path."""


def _listed(body: object) -> list[dict[str, Any]]:
    """The entries of a server's list of models."""
    entries = body.get("data") if isinstance(body, dict) else None
    return [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []


def _why(error: Exception) -> str:
    """A transport error in words."""
    if isinstance(error, _TOO_SLOW):
        return "it did not answer in time"
    if isinstance(error, httpx.ConnectError):
        return f"nothing listens there: {error}"
    return plain(str(error)) or "the connection was lost"
