"""Access control, request limits and request logging.

All checks run before the body is read. Two checks protect against other sites in a browser:
requests with a foreign origin are rejected, and, if no API key is set, requests with a foreign
host name too (DNS rebinding).
"""

import asyncio
import os
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from ipaddress import ip_address
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response

from rstar_math.errors import (
    ConfigError,
    ContextLengthError,
    InputError,
    ModelError,
    ModelUnreachableError,
    RstarError,
)
from rstar_math.web.server import LOG, Metrics, trace_ids

KEYS_ENV = "RSTAR_API_KEYS"
_MIN_KEY_CHARS = 16


class ApiKeys:
    """The accepted API keys. Without any key, every request is accepted."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = [sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accepts(self, authorization: str) -> bool:
        """Whether an `Authorization` header contains one of the keys. Runs in constant time."""
        scheme, _, key = authorization.partition(" ")
        digest = sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        matches = [compare_digest(digest, accepted) for accepted in self._digests]
        return not matches or (scheme.lower() == "bearer" and any(matches))


def load_keys(file: Path | None) -> ApiKeys:
    """The keys of a file (one per line) and of RSTAR_API_KEYS (separated by commas).

    Raises `InputError` if the file cannot be read or has no keys, and `ConfigError` if a key is
    too easy to guess.
    """
    keys = [key.strip() for key in os.environ.get(KEYS_ENV, "").split(",")]
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
            if file.stat().st_mode & 0o077:
                LOG.warning("%s is open to other users; run: chmod 600 %s", file, file)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"Cannot read the API key file {file} ({error}); give a text file with one key "
                "per line."
            ) from None
        file_keys = [line.strip() for line in lines if not line.lstrip().startswith("#")]
        if not any(file_keys):
            raise InputError(f"{file} contains no API keys; write one key per line.")
        keys += file_keys
    keys = [key for key in keys if key]
    if any(len(key) < _MIN_KEY_CHARS or not key.isascii() for key in keys):
        raise ConfigError(
            f"An API key is shorter than {_MIN_KEY_CHARS} characters or not ASCII; generate one "
            "with: python -c 'import secrets; print(secrets.token_urlsafe(24))'"
        )
    return ApiKeys(keys)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host name or address."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def require_keys(host: str, keys: ApiKeys) -> None:
    """Raises `ConfigError` if other machines can reach the host and no API key is set."""
    if not is_loopback(host) and not keys:
        raise ConfigError(
            f"--host {host} accepts other machines and requires API keys; pass --api-keys FILE, "
            f"set {KEYS_ENV}, or omit --host."
        )


ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""The error's `type` by status. Other 4xx are "invalid_request_error", 5xx are "server_error"."""


class ApiError(RstarError):
    """An error response in the format of the OpenAI API."""

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
        """The invalid field of the request, for example "rstar.seconds"."""
        self.headers = dict(headers or {})
        """Additional response headers, for example Retry-After."""

    def __reduce__(self) -> tuple[Any, ...]:
        return ApiError, (str(self), self.status), self.__dict__

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of an OpenAI error."""
        default = "server_error" if self.status >= 500 else "invalid_request_error"
        error_type = ERROR_TYPES.get(self.status, default)
        error = {"message": str(self), "type": error_type, "param": self.param, "code": self.code}
        return {"error": error}


def api_error_of(error: BaseException) -> ApiError:
    """The error response for an exception that ended a request.

    Only messages about the request itself are passed on. Others may contain what a model server
    said, its address, or data that the client must not see; they are in the server's log.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ContextLengthError):
        message = "The question is too long for the model; shorten it."
        return ApiError(message, 400, code="context_length_exceeded")
    if isinstance(error, InputError | ConfigError):
        return ApiError(str(error), 400, code=_error_code(error))
    if isinstance(error, ModelUnreachableError):
        message = "The model behind this server does not answer; try again later."
        return ApiError(message, 502, code=_error_code(error))
    if isinstance(error, ModelError):
        message = "The model behind this server did not answer the request; see the server's log."
        return ApiError(message, 502, code=_error_code(error))
    if isinstance(error, RstarError):
        return ApiError("The search failed; see the server's log.", 500, code=_error_code(error))
    return ApiError("Internal server error; see the server's log.", 500, code="bug")


def _error_code(error: RstarError) -> str:
    """The error's class in snake case: ModelUnreachableError becomes model_unreachable."""
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
PUBLIC_PATHS = ("/health", "/openapi.json", "/trees/")
"""Paths that need no key: their content is not secret, or their names cannot be guessed."""
SEND_TIMEOUT_S = 60.0
"""Maximum time for a client to read one part of a response. After it, the client counts as
disconnected."""
CLIENT_CLOSED = 499
"""The status that is logged if the client disconnects before the response."""
_RESPONSE_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Which requests the server accepts."""

    keys: ApiKeys = field(default_factory=ApiKeys)
    origins: frozenset[str] = frozenset()
    """Sites whose pages may send requests, for example https://chat.example.org."""
    body_bytes: int = 2**20
    """Maximum size of a request body."""


class SlowClientError(Exception):
    """A client did not read its response for `SEND_TIMEOUT_S`."""


class AccessMiddleware:
    """ASGI middleware that checks, logs and counts every request."""

    def __init__(self, app: App, policy: AccessPolicy, metrics: Metrics) -> None:
        self._app = app
        self._policy = policy
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection. Scopes other than HTTP are ignored."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        log = RequestLog(scope, send, headers, self._allowed_origin(headers))
        scope["request_log"] = log
        self._metrics.in_flight.inc()
        try:
            await self._check_and_forward(scope, receive, log, headers)
        except SlowClientError:
            log.disconnected = True
        except Exception as error:
            if not isinstance(error, RstarError):
                LOG.exception("unexpected error", extra={"fields": log.fields})
            elif not isinstance(error, ApiError):
                LOG.warning("failed: %s", error, extra={"fields": log.fields})
            if not log.status:
                await _error_response(api_error_of(error))(scope, receive, log.send)
        finally:
            self._metrics.in_flight.dec()
            status = log.status or CLIENT_CLOSED
            self._metrics.requests.labels(route_of(scope["path"]), status).inc()
            log.write()
            del scope["request_log"]  # breaks the reference cycle scope -> log -> uvicorn -> scope

    async def _check_and_forward(
        self, scope: Scope, receive: Receive, log: "RequestLog", headers: Headers
    ) -> None:
        """Check a request and forward it to the app. Raises `ApiError`."""
        policy, path = self._policy, scope["path"]
        _check_origin(headers, self._allowed_origin(headers), policy)
        if scope["method"] == "OPTIONS" and "origin" in headers:
            await Response(status_code=204)(scope, receive, log.send)
            return
        authorization = headers.get("authorization", "")
        if not path.startswith(PUBLIC_PATHS) and not policy.keys.accepts(authorization):
            raise ApiError(
                "The API key is missing or invalid; send the header Authorization: Bearer KEY.",
                401,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > policy.body_bytes:
            raise body_too_large(policy.body_bytes)
        await self._app(scope, receive, log.send)

    def _allowed_origin(self, headers: Headers) -> str | None:
        """The request's origin if the policy allows it, else None."""
        origin = headers.get("origin")
        return origin if origin in self._policy.origins else None


class RequestLog:
    """Sends the response of one request and collects the fields of its log line."""

    def __init__(self, scope: Scope, send: Send, headers: Headers, origin: str | None) -> None:
        self.status = 0
        """The response's status; 0 before the response starts."""
        self.disconnected = False
        """Whether the client disconnected before the response was complete."""
        self._send = send
        self._origin = origin
        self._started = monotonic()
        self.fields: dict[str, Any] = {"method": scope["method"], "path": log_path(scope["path"])}
        self.fields["request"] = secrets.token_hex(8)
        self.fields |= trace_ids(headers.get("traceparent", ""))

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Send an ASGI message; adds the headers of every response. Raises `SlowClientError`."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            for name, value in _RESPONSE_HEADERS.items():
                headers.setdefault(name, value)
            headers["X-Request-Id"] = self.fields["request"]
            if self._origin is not None:
                headers["Access-Control-Allow-Origin"] = self._origin
                headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
                headers["Access-Control-Allow-Methods"] = "GET, POST"
                headers["Access-Control-Expose-Headers"] = "X-Request-Id, X-Rstar-Tree, Retry-After"
                headers["Vary"] = "Origin"
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self._send(message)
        except TimeoutError:
            raise SlowClientError from None

    def write(self) -> None:
        """Write the log line."""
        if self.disconnected:
            self.fields["gone"] = True
        self.fields["status"] = self.status or CLIENT_CLOSED
        self.fields["seconds"] = round(monotonic() - self._started, 4)
        LOG.info("request", extra={"fields": self.fields})


def body_too_large(max_bytes: int) -> ApiError:
    """The error (413) for a request body of more than `max_bytes`."""
    return ApiError(
        f"The request body is larger than {max_bytes} bytes; shorten it.",
        413,
        code="request_too_large",
    )


def route_of(path: str) -> str:
    """The route of a path as a metric label. The number of labels is bounded."""
    if path in ROUTES:
        return path
    for prefix in ("/v1/models/", "/trees/"):
        if path.startswith(prefix):
            return f"{prefix}{{name}}"
    return "other"


def _check_origin(headers: Headers, allowed: str | None, policy: AccessPolicy) -> None:
    """Reject requests that pages of other sites send. Raises `ApiError` (403)."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if not policy.keys and not is_loopback(host_name(host)):
        raise ApiError(
            f"The host name {host[:60]!r} is not allowed; use localhost, or start the server with "
            "API keys.",
            403,
            code="foreign_host",
        )
    own = (f"http://{host}", f"https://{host}")
    if origin is not None and origin not in own and allowed is None:
        raise ApiError(
            f"The origin {origin[:60]!r} is not allowed; start the server with --allow-origin URL.",
            403,
            code="foreign_origin",
        )


_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]*)(?::[0-9]+)?")


def host_name(host: str) -> str:
    """A Host header without its port; "" if it is not valid."""
    match = _HOST.fullmatch(host)
    return match[1] if match else ""


def log_path(path: str) -> str:
    """A path for the log, without tree names: whoever knows a name can read the tree."""
    return "/trees/" if path.startswith("/trees/") else quote(path[:200], safe="/:@!$&'()*+,;=~")


def _error_response(error: ApiError) -> JSONResponse:
    """An error as a response."""
    return JSONResponse(error.body, error.status, error.headers)


def normalize_origins(origins: Iterable[str]) -> frozenset[str]:
    """Origins as browsers send them: lower case, no slash at the end."""
    return frozenset(origin.rstrip("/").lower() for origin in origins)
