"""Access control, request limits and request logging.

Checks come before a body is read. What a page from another site could do in a browser is refused:
a request from a foreign origin, and, where no key is asked for, one under a foreign host name (DNS
rebinding).
"""

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from ipaddress import ip_address
from pathlib import Path
from time import monotonic
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response

from rstar_math.errors import ConfigError, InputError, RstarError
from rstar_math.web.server import LOG, Metrics, trace_of

KEYS_ENV = "RSTAR_API_KEYS"
_SHORTEST = 16


class Keys:
    """Keys that are taken; without any everybody is let in."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = [sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def admit(self, authorization: str) -> bool:
        """Whether an `Authorization` header brings one of the keys. Takes as long for any of
        them."""
        scheme, _, key = authorization.partition(" ")
        given = sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        found = [compare_digest(given, digest) for digest in self._digests]
        return not found or (scheme.lower() == "bearer" and any(found))


def load_keys(file: Path | None) -> Keys:
    """The keys of a file, one a line, and of the environment variable RSTAR_API_KEYS, separated by
    commas. Raises `InputError` for a file that cannot be read or holds none, and `ConfigError` for
    a key that is too easily guessed."""
    keys = [key.strip() for key in os.environ.get(KEYS_ENV, "").split(",")]
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"The file of keys {file} cannot be read ({error}); give one with a key a line."
            ) from None
        listed = [line.strip() for line in lines if not line.lstrip().startswith("#")]
        if not any(listed):
            raise InputError(f"{file} holds no keys; put one on each line.")
        keys += listed
    keys = [key for key in keys if key]
    if any(len(key) < _SHORTEST or not key.isascii() for key in keys):
        raise ConfigError(
            f"An API key has fewer than {_SHORTEST} characters or some that are not ASCII; make "
            "one with: python -c 'import secrets; print(secrets.token_urlsafe(24))'"
        )
    return Keys(keys)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host name or address."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_open(host: str, keys: Keys) -> None:
    """Refuse to let others in without a key. Raises `ConfigError`."""
    if not is_loopback(host) and not keys:
        raise ConfigError(
            f"--host {host} lets other machines in; give keys with --api-keys FILE or {KEYS_ENV}, "
            "or leave --host out."
        )


KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""The error's `type` by status; other 4xx are "invalid_request_error", 5xx "server_error"."""


class ApiError(RstarError):
    """A request that is not served, with what its client is told."""

    def __init__(
        self,
        message: str,
        status: int = 400,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        """The field of the request that is at fault, as in "rstar.seconds"."""
        self.headers = dict(headers or {})
        """Headers that belong to it, as Retry-After."""

    def __reduce__(self) -> tuple[Any, ...]:
        return ApiError, (str(self), self.status), self.__dict__

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of an OpenAI error."""
        other = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = KINDS.get(self.status, other)
        said = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": said}


def api_error_of(error: BaseException) -> ApiError:
    """What a client is told of an error that ended its request: our own sentences whole, of others
    nothing, since they may hold what is not the client's to know."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RstarError):
        wrong = error.exit_code == InputError.exit_code
        return ApiError(str(error), 400 if wrong else 502, code=_field_name(error))
    return ApiError("The server failed in an unforeseen way; its log says how.", 500, code="bug")


def _field_name(error: RstarError) -> str:
    """The error's class as a code: ModelUnreachableError is model_unreachable."""
    name = type(error).__name__.removesuffix("Error")
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
ROUTES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/models",
    "/health",
    "/metrics",
    "/openapi.json",
)
OPEN = ("/health", "/openapi.json", "/trees/")
"""Paths that need no key: what they tell is no secret, or has a name that cannot be guessed."""
SEND_S = 60.0
"""Longest time that a client may take to read a piece of an answer before it counts as gone."""
GONE = 499
"""The status that is written down for a client that left before its answer."""
_ALWAYS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Who may come in, and with what."""

    keys: Keys = field(default_factory=Keys)
    origins: frozenset[str] = frozenset()
    """Sites whose pages may ask, as in https://chat.example.org."""
    body_bytes: int = 2**20
    """Largest body."""


class SlowClient(Exception):
    """A client did not read what it was sent, for `SEND_S`."""


class AccessMiddleware:
    """An ASGI app around another, which it lets requests through to."""

    def __init__(self, app: App, rules: AccessPolicy, metrics: Metrics) -> None:
        self._app = app
        self._rules = rules
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI; what is no HTTP is not served."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        visit = RequestLog(scope, send, headers, self._origin(headers))
        scope["visit"] = visit
        self._metrics.in_flight.inc()
        try:
            await self._admit(scope, receive, visit, headers)
        except SlowClient:
            visit.gone = True
        except Exception as error:
            if not isinstance(error, RstarError):
                LOG.exception("a bug", extra={"facts": visit.facts})
            elif not isinstance(error, ApiError):
                LOG.warning("failed: %s", error, extra={"facts": visit.facts})
            if not visit.status:
                await _refusal(api_error_of(error))(scope, receive, visit.send)
        finally:
            self._metrics.in_flight.dec()
            status = visit.status or GONE
            self._metrics.requests.labels(route_of(scope["path"]), status).inc()
            visit.log()
            del scope["visit"]  # It knows uvicorn's request, which knows the scope.

    async def _admit(
        self, scope: Scope, receive: Receive, visit: "RequestLog", headers: Headers
    ) -> None:
        """Check a request and let it through."""
        rules, path = self._rules, scope["path"]
        _check_source(headers, self._origin(headers), rules)
        if scope["method"] == "OPTIONS" and "origin" in headers:
            await Response(status_code=204)(scope, receive, visit.send)
            return
        if not path.startswith(OPEN) and not rules.keys.admit(headers.get("authorization", "")):
            raise ApiError(
                "The API key is missing or wrong; send it as Authorization: Bearer KEY.",
                401,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > rules.body_bytes:
            raise too_large(rules.body_bytes)
        await self._app(scope, receive, visit.send)

    def _origin(self, headers: Headers) -> str | None:
        """The site that a request comes from, if it may."""
        origin = headers.get("origin")
        return origin if origin in self._rules.origins else None


class RequestLog:
    """One request: what is sent back, and what is written down of it."""

    def __init__(self, scope: Scope, send: Send, headers: Headers, origin: str | None) -> None:
        self.status = 0
        """The answer's status; 0 before it began."""
        self.gone = False
        """Whether the client left before the end."""
        self._send = send
        self._origin = origin
        self._started = monotonic()
        self.facts: dict[str, Any] = {"method": scope["method"], "path": _short(scope["path"])}
        self.facts["request"] = secrets.token_hex(8)
        self.facts |= trace_of(headers.get("traceparent", ""))

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Send, with the headers that all answers have. Raises `SlowClient`."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            for name, value in _ALWAYS.items():
                headers.setdefault(name, value)
            headers["X-Request-Id"] = self.facts["request"]
            if self._origin is not None:
                headers["Access-Control-Allow-Origin"] = self._origin
                headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
                headers["Access-Control-Allow-Methods"] = "GET, POST"
                headers["Access-Control-Expose-Headers"] = "X-Request-Id, X-Rstar-Tree, Retry-After"
                headers["Vary"] = "Origin"
        try:
            async with asyncio.timeout(SEND_S):
                await self._send(message)
        except TimeoutError:
            raise SlowClient from None

    def log(self) -> None:
        """Write the visit into the log."""
        if self.gone:
            self.facts["gone"] = True
        self.facts["status"] = self.status or GONE
        self.facts["seconds"] = round(monotonic() - self._started, 4)
        LOG.info("request", extra={"facts": self.facts})


def too_large(most: int) -> ApiError:
    """What is said to a body that is too large."""
    return ApiError(
        f"The body has more than {most} bytes, which is the most; shorten it.",
        413,
        code="request_too_large",
    )


def route_of(path: str) -> str:
    """The route of a path, for counting: few, whatever is asked for."""
    if path in ROUTES:
        return path
    for start in ("/v1/models/", "/trees/"):
        if path.startswith(start):
            return f"{start}{{name}}"
    return "other"


def _check_source(headers: Headers, allowed: str | None, rules: AccessPolicy) -> None:
    """Refuse what a foreign page makes a browser send."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if not rules.keys and not is_loopback(_name(host)):
        raise ApiError(
            f"The host {host[:60]!r} is not this server; use localhost, or start it with keys.",
            403,
            code="foreign_host",
        )
    own = (f"http://{host}", f"https://{host}")
    if origin is not None and origin not in own and allowed is None:
        raise ApiError(
            "Pages of other sites may not ask; start the server with --allow-origin for this one.",
            403,
            code="foreign_origin",
        )


def _name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _short(path: str) -> str:
    """A path for the log, without the name that opens a tree."""
    return "/trees/" if path.startswith("/trees/") else path[:200]


def _refusal(refusal: ApiError) -> JSONResponse:
    """A refusal as a response."""
    return JSONResponse(refusal.body, refusal.status, refusal.headers)


def normalize_origins(origins: Iterable[str]) -> frozenset[str]:
    """Sites as browsers name them."""
    return frozenset(origin.rstrip("/").lower() for origin in origins)
