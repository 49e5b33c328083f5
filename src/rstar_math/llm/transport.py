"""Requests to model servers: an aiohttp session per server, and what its replies mean."""

import json
from dataclasses import dataclass

import aiohttp

from rstar_math.errors import ConfigError, ContextLengthError, ModelError, ModelRejectedError
from rstar_math.text import sanitize


class RouteNotFoundError(ModelError):
    """The server does not have a route."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's complete reply to one request."""

    status: int
    body: bytes
    retry_after_s: float = 0.0
    """Seconds to wait before the next request, from Retry-After; 0 if the server sent none."""

    def json(self) -> object:
        """Returns the parsed body, or None if it is not JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    @property
    def message(self) -> str:
        """The error message in the body, sanitized and at most 200 characters long."""
        body = self.json() or self.body[:2000].decode("utf-8", "replace")
        error = body.get("error", body) if isinstance(body, dict) else body
        message = error.get("message", error) if isinstance(error, dict) else error
        return sanitize(" ".join(str(message)[:2000].split()))[:200]


def retry_after_s(header: str | None) -> float:
    """Returns the seconds of a Retry-After header; 0 if it is missing or holds a date."""
    try:
        return max(0.0, float(header or "0"))
    except ValueError:
        return 0.0


def check_reply(reply: Reply, url: str, route: str) -> object:
    """Returns the JSON of a successful reply.

    Raises `RouteNotFoundError` if the server lacks the route or offers the model for chat only.
    Raises `ContextLengthError` if the prompt is too long, and `ModelRejectedError` otherwise.
    """
    status = reply.status
    if status < 300:
        body = reply.json()
        if body is None:
            raise ModelRejectedError(
                f"{url} did not answer in JSON; is it an OpenAI-compatible server, "
                "and does the address end in /v1?"
            )
        return body
    message = reply.message
    if status < 400:
        raise ModelRejectedError(
            f"{url} redirects to another address (status {status}); use that address."
        )
    if status in (401, 403):
        raise ModelRejectedError(
            f"{url} rejected the API key ({message}); set the right key in the environment "
            "variable named by model.api_key_env."
        )
    chat_only = "chat/completions" in message or "chat model" in message
    if status in (404, 405) and (chat_only or "model" not in message.lower()):
        raise RouteNotFoundError(f"{url} has no {route}; does the address end in /v1?")
    if status == 400 and ("context" in message.lower() or "too long" in message.lower()):
        raise ContextLengthError(f"The prompt does not fit the model's context ({message}).")
    raise ModelRejectedError(f"{url} rejected the request (status {status}: {message}).")


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An HTTP response."""

    status: int
    retry_after: str | None
    body: bytes
    truncated: bool = False
    """Whether the body exceeded the limit, so that reading stopped."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request that can be sent several times."""

    method: str
    url: str
    data: bytes | None = None
    """JSON in UTF-8; None for no body."""


_CONNECT_TIMEOUT_S = 10.0
_KEEP_ALIVE_S = 30.0
_MAX_LINE_BYTES = 64 << 10
"""Longest line in a response head."""


class ConnectionPool:
    """Connections to one server, opened on demand and reused; there is no limit on their number.

    Raises `ConfigError` for a key that cannot be sent.
    """

    def __init__(self, url: str, key: str | None) -> None:
        # The loopback is never reached through a proxy.
        self._trust_env = not url.startswith(("http://127.", "http://localhost", "http://[::1]"))
        self._headers = {"Accept-Encoding": "identity", "User-Agent": "rstar-math"}
        if key is not None and key.strip():
            if not key.isascii() or not key.strip().isprintable():
                raise ConfigError(
                    "The API key contains a character that cannot be sent; correct the environment "
                    "variable named by model.api_key_env."
                )
            self._headers["Authorization"] = f"Bearer {key.strip()}"
        self._session: aiohttp.ClientSession | None = None

    @staticmethod
    def build_request(method: str, url: str, body: object = None) -> HttpRequest:
        """Returns a request with `body` as JSON, or without a body if it is None."""
        return HttpRequest(method, url, None if body is None else _json_bytes(body))

    async def send(self, request: HttpRequest, max_bytes: int) -> HttpResponse:
        """Returns the response, with a body of at most `max_bytes` bytes.

        Redirects are not followed. Raises aiohttp's errors. Cancellation closes the request's
        connection.
        """
        if self._session is None:
            self._session = self._open_session()
        headers = {} if request.data is None else {"Content-Type": "application/json"}
        async with self._session.request(
            request.method, request.url, data=request.data, headers=headers, allow_redirects=False
        ) as response:
            parts: list[bytes] = []
            size = 0
            async for part in response.content.iter_any():
                parts.append(part)
                size += len(part)
                if size > max_bytes:
                    break
            truncated = size > max_bytes
            if truncated:
                response.close()
            retry_after = response.headers.get("Retry-After")
            return HttpResponse(response.status, retry_after, b"".join(parts), truncated)

    async def aclose(self) -> None:
        """Closes all connections; requests in flight fail."""
        if self._session is not None:
            await self._session.close()

    def _open_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S),
            trust_env=self._trust_env,
            max_line_size=_MAX_LINE_BYTES,
            max_field_size=_MAX_LINE_BYTES,
        )


def _json_bytes(body: object) -> bytes:
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8")
