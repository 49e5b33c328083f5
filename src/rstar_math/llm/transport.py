"""HTTP/1.1 connection pool: plain HTTP over bare asyncio connections, TLS and proxies over httpx.

A general client does much per request that a model server does not need: hooks, events, redirects,
cookies. With hundreds of requests in flight this costs several times what the search itself costs.
`HttpConnection` therefore implements only what a POST of JSON needs. It raises the same errors as
httpx.
"""

import asyncio
import json
import re
import ssl
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.request import getproxies, proxy_bypass

import httpx

from rstar_math.errors import (
    ConfigError,
    ContextLengthError,
    MissingDependencyError,
    ModelError,
    ModelRejectedError,
)
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


_MAX_HEAD_BYTES = 64 << 10
"""Maximum size of a response head, and of the line with a chunk's size."""
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) (\d{3})(?: [^\r\n]*)?")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,12})[ \t]*(?:;[^\r\n]*)?")


@dataclass(slots=True)
class HttpResponse:
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    """Headers by lower-case name; the last one of several with the same name."""
    body: bytearray = field(default_factory=bytearray)
    truncated: bool = False
    """Whether the body exceeded the limit, so that reading stopped."""


class HttpConnection(asyncio.Protocol):
    """A plain HTTP/1.1 connection, opened by `connect`, for one request at a time.

    Raises httpx's transport errors.
    """

    def __init__(self) -> None:
        self.usable = False
        """Whether another request can be sent."""
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._response: HttpResponse | None = None
        self._remaining: int | None = None
        """Bytes left in the body or chunk; None if the end of the connection ends the body."""
        self._chunked = False
        self._after_chunk = False
        """Whether the line break that ends a chunk comes next."""
        self._max_bytes = 0
        self._result: asyncio.Future[HttpResponse] | None = None

    async def request(self, request: bytes, max_bytes: int) -> HttpResponse:
        """Returns the response, with a body of at most `max_bytes` bytes.

        Cancellation or an error closes the connection.
        """
        assert self._transport is not None
        self._response, self._max_bytes = None, max_bytes
        self._result = asyncio.get_running_loop().create_future()
        try:
            self._transport.write(request)
            return await self._result
        except BaseException:
            self.abort()
            raise
        finally:
            self._result = None

    def abort(self) -> None:
        """Closes the connection at once."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio callback: the connection is open."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.usable = True

    def connection_lost(self, error: Exception | None) -> None:
        """asyncio callback: the connection is closed. This ends a body of unknown length."""
        self.usable = False
        response = self._response
        complete = response is not None and self._remaining is None and not self._chunked
        if complete and error is None:
            self._finish()
        else:
            self._fail(httpx.ReadError(str(error or "Server disconnected without an answer.")))

    def data_received(self, data: bytes) -> None:
        """asyncio callback: data arrived. Data that no request asked for closes the connection."""
        if self._result is None or self._result.done():
            self.abort()
            return
        self._buffer += data
        try:
            while self._response is None:
                if not self._read_head():
                    return
            self._read_body(self._response)
        except ValueError as error:
            self._fail(httpx.RemoteProtocolError(str(error)))
            self.abort()

    def _read_head(self) -> bool:
        """Parses the response head. Returns False if it is incomplete."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _MAX_HEAD_BYTES:
                raise ValueError("The response head is too long.")
            return False
        first, *lines = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        match = _STATUS_LINE.fullmatch(first)
        if match is None:
            raise ValueError("The response is not HTTP/1.1.")
        if match[2].startswith(b"1"):
            return True
        pairs = (line.decode("latin-1").partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        self._response = HttpResponse(int(match[2]), headers)
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        self._after_chunk = False
        length = headers.get("content-length")
        if length is not None and not (length.isascii() and length.isdecimal()):
            raise ValueError(f"The response has an invalid Content-Length: {length[:40]!r}.")
        self._remaining = None if length is None or self._chunked else int(length)
        if match[2] in (b"204", b"304"):
            self._remaining, self._chunked = 0, False
        connection = headers.get("connection", "").lower()
        if "close" in connection or (match[1] == b"0" and "keep-alive" not in connection):
            self.usable = False
        return True

    def _read_body(self, response: HttpResponse) -> None:
        """Parses the part of the body that is in the buffer."""
        while self._move_to_body(response):
            if not self._next_chunk():
                return
        if len(response.body) > self._max_bytes:
            response.truncated = True
            self._finish()
            self.abort()
        elif self._remaining == 0 and not self._chunked:
            self._finish()

    def _move_to_body(self, response: HttpResponse) -> bool:
        """Moves bytes from the buffer to the body. Returns True if a chunk's size comes next."""
        if self._chunked and not self._remaining:
            return len(response.body) <= self._max_bytes
        part = self._buffer if self._remaining is None else self._buffer[: self._remaining]
        response.body += part
        if self._remaining is not None:
            self._remaining -= len(part)
        del self._buffer[: len(part)]
        self._after_chunk = self._chunked and not self._remaining
        return self._after_chunk and len(response.body) <= self._max_bytes

    def _next_chunk(self) -> bool:
        """Parses the size of the next chunk. Returns False if it is incomplete or the body ends.

        The body ends with a chunk of size 0 and its trailer.
        """
        skip = 2 if self._after_chunk else 0
        end = self._buffer.find(b"\r\n", skip)
        if end < 0:
            if len(self._buffer) > _MAX_HEAD_BYTES:
                raise ValueError("The line with a chunk's size is too long.")
            return False
        match = _CHUNK_SIZE.fullmatch(self._buffer[skip:end])
        if match is None or (skip and self._buffer[:2] != b"\r\n"):
            raise ValueError("A chunk of the response has no valid size.")
        size = int(match[1], 16)
        if size:
            del self._buffer[: end + 2]
            self._remaining, self._after_chunk = size, False
            return True
        trailer_end = self._buffer.find(b"\r\n\r\n", end)
        if trailer_end < 0:
            if len(self._buffer) > _MAX_HEAD_BYTES:
                raise ValueError("The response trailer is too long.")
            return False
        del self._buffer[: trailer_end + 4]
        self._remaining, self._chunked = 0, False
        self._finish()
        return False

    def _finish(self) -> None:
        """Returns the response to the caller of `request`."""
        if self._buffer:
            self.usable = False
        self._buffer.clear()
        if self._result is not None and not self._result.done() and self._response is not None:
            self._result.set_result(self._response)
            if not self.usable:
                self.abort()

    def _fail(self, error: httpx.TransportError) -> None:
        """Raises an error in the caller of `request`."""
        if self._result is not None and not self._result.done():
            self._result.set_exception(error)


async def connect(host: str, port: int, timeout_s: float) -> HttpConnection:
    """Returns an open connection. Raises `httpx.ConnectError` or `httpx.ConnectTimeout`."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            _, connection = await loop.create_connection(
                HttpConnection, host, port, happy_eyeballs_delay=0.25
            )
    except TimeoutError as error:
        raise httpx.ConnectTimeout(f"no connection in {timeout_s:g} s") from error
    except OSError as error:
        raise httpx.ConnectError(str(error)) from error
    return connection


_CONNECT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request that can be sent several times."""

    method: str
    url: str
    data: bytes | None = None
    """JSON in UTF-8; None for no body."""


class ConnectionPool:
    """Connections to one server, opened on demand and reused.

    A plain HTTP server without a proxy is reached over `HttpConnection`, which takes a quarter of
    the processor time of httpx. Other servers are reached over httpx, with one client per
    connection. A pool of httpx scans all its connections whenever a request starts or ends. With
    256 requests in flight this took ten times as long as everything else. Raises `ConfigError` for
    a key that cannot be sent, and `MissingDependencyError` if a proxy needs another package.
    """

    def __init__(self, url: str, key: str | None) -> None:
        local = url.startswith(("http://127.", "http://localhost", "http://[::1]"))
        self._trust_env = not local  # the loopback is never reached through a proxy
        self._headers = {"Accept-Encoding": "identity"}
        if key is not None and key.strip():
            self._headers["Authorization"] = f"Bearer {key.strip()}"
        self._tls = _tls_context(self._trust_env)
        self._clients: list[httpx.AsyncClient] = []
        self._idle_clients: list[httpx.AsyncClient] = [self._open_client()]
        self._direct_url = _direct_url(url, local=local)
        self._connections: set[HttpConnection] = set()
        self._idle_connections: list[HttpConnection] = []

    @staticmethod
    def build_request(method: str, url: str, body: object = None) -> HttpRequest:
        """Returns a request with `body` as JSON, or without a body if it is None."""
        return HttpRequest(method, url, None if body is None else _json_bytes(body))

    async def send(self, request: HttpRequest, max_bytes: int) -> HttpResponse:
        """Returns the response, with a body of at most `max_bytes` bytes.

        Raises httpx's errors. Cancellation closes the request's connection.
        """
        if self._direct_url is not None:
            response = await self._send_directly(self._direct_url, request, max_bytes)
            if response is not None:
                return response
        client = self._idle_clients.pop() if self._idle_clients else self._open_client()
        try:
            response = await self._send_with_httpx(client, request, max_bytes)
        except BaseException:
            # An interrupted request may leave its connection occupied for ever.
            self._clients.remove(client)
            await asyncio.shield(client.aclose())
            raise
        self._idle_clients.append(client)
        return response

    async def aclose(self) -> None:
        """Closes all connections; requests in flight are cancelled."""
        for connection in list(self._connections):
            connection.abort()
        for client in self._clients:
            await client.aclose()

    async def _send_directly(
        self, server: httpx.URL, request: HttpRequest, max_bytes: int
    ) -> HttpResponse | None:
        """Sends over the most recently used connection, which is the least likely to be stale.

        Returns None if the response is compressed: only httpx can read it.
        """
        while self._idle_connections and not self._idle_connections[-1].usable:
            self._connections.discard(self._idle_connections.pop())
        if self._idle_connections:
            connection = self._idle_connections.pop()
        else:
            connection = await connect(server.host, server.port or 80, _CONNECT_TIMEOUT_S)
            self._connections.add(connection)
        try:
            response = await connection.request(self._encode(server, request), max_bytes)
        except BaseException:
            self._connections.discard(connection)
            raise
        if connection.usable:
            self._idle_connections.append(connection)
        else:
            self._connections.discard(connection)
        if response.headers.get("content-encoding", "identity") != "identity":
            self._direct_url = None
            return None
        return response

    def _encode(self, server: httpx.URL, request: HttpRequest) -> bytes:
        """Returns the bytes of a request."""
        path = _raw_path(request.url)
        lines = [request.method.encode() + b" " + path + b" HTTP/1.1", b"Host: " + server.netloc]
        lines += [f"{name}: {value}".encode("ascii") for name, value in self._headers.items()]
        lines += [b"Accept: */*", b"User-Agent: rstar-math"]
        if request.data is not None:
            lines += [b"Content-Type: application/json"]
            lines += [b"Content-Length: %d" % len(request.data)]
        return b"\r\n".join([*lines, b"", request.data or b""])

    async def _send_with_httpx(
        self, client: httpx.AsyncClient, request: HttpRequest, max_bytes: int
    ) -> HttpResponse:
        """Sends over an idle client."""
        content = {} if request.data is None else {"Content-Type": "application/json"}
        response = await client.send(
            client.build_request(
                request.method, request.url, content=request.data, headers=content
            ),
            stream=True,
        )
        result = HttpResponse(response.status_code, dict(response.headers))
        try:
            async for part in response.aiter_bytes():
                result.body += part
                if len(result.body) > max_bytes:
                    result.truncated = True
                    break
        finally:
            await response.aclose()
        return result

    def _open_client(self) -> httpx.AsyncClient:
        try:
            client = httpx.AsyncClient(
                headers=self._headers,
                timeout=httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S),
                limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
                verify=self._tls,
                trust_env=self._trust_env,
            )
        except UnicodeEncodeError:
            raise ConfigError(
                "The API key contains a character that is not ASCII; correct the environment "
                "variable named by model.api_key_env."
            ) from None
        except ImportError as error:
            raise MissingDependencyError(
                "The environment sets a SOCKS proxy, which needs another package; "
                "type: pip install 'httpx[socks]'."
            ) from error
        self._clients.append(client)
        return client


def _direct_url(url: str, *, local: bool) -> httpx.URL | None:
    """Returns the address of a plain HTTP server that needs no proxy, and None for any other.

    An invalid address also gives None: httpx reports it best.
    """
    try:
        server = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        return None
    if server.scheme != "http" or not server.host or server.userinfo:
        return None
    proxies = getproxies()
    has_proxy = "http" in proxies or "all" in proxies
    return None if has_proxy and not local and not proxy_bypass(server.host) else server


@lru_cache(2)
def _tls_context(trust_env: bool) -> ssl.SSLContext:
    """Returns a TLS context, shared by all servers because it takes 30 ms to make."""
    return httpx.create_ssl_context(trust_env=trust_env)


@lru_cache(16)
def _raw_path(url: str) -> bytes:
    return httpx.URL(url).raw_path


def _json_bytes(body: object) -> bytes:
    """Returns JSON in the format that httpx writes."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8")
