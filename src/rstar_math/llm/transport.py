"""HTTP requests to one model server, with an aiohttp session."""

import json
from dataclasses import dataclass

import aiohttp

from rstar_math.errors import ConfigError


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
