"""The HTTP/1.1 connection pool: plain HTTP by a small client of ours, proxies and TLS by httpx.

What a client library does for a request (pools, hooks, events, redirects, cookies) costs a few
times what a search does with the answer, and hundreds of requests are in flight. Here is only what
a POST of JSON to a model server takes; TLS and proxies are left to httpx.
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


class NoSuchRoute(ModelError):
    """The server does not know a path."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's whole answer to one request."""

    status: int
    body: bytes
    retry_after_s: float = 0.0
    """Seconds that it asks to be left alone; 0 where it does not say."""

    def json(self) -> object:
        """The body read as JSON; None where it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    @property
    def message(self) -> str:
        """What it says of an error, in at most 200 harmless characters."""
        body = self.json() or self.body[:2000].decode("utf-8", "replace")
        error = body.get("error", body) if isinstance(body, dict) else body
        said = error.get("message", error) if isinstance(error, dict) else error
        return sanitize(" ".join(str(said)[:2000].split()))[:200]


def retry_after_s(header: str | None) -> float:
    """Seconds of a Retry-After header; 0 where there is none or it is a date."""
    try:
        return max(0.0, float(header or "0"))
    except ValueError:
        return 0.0


def check_reply(reply: Reply, url: str, route: str) -> object:
    """The JSON of a good answer. Raises `ModelRejectedError` or `ContextLengthError` for any other,
    and `NoSuchRoute` where the server lacks the route or has it for chat only."""
    status = reply.status
    if status < 300:
        body = reply.json()
        if body is None:
            raise ModelRejectedError(
                f"{url} did not answer in JSON; is it an OpenAI-compatible server, "
                "and does the address end in /v1?"
            )
        return body
    said = reply.message
    if status < 400:
        raise ModelRejectedError(f"{url} sends elsewhere (status {status}); give that address.")
    if status in (401, 403):
        raise ModelRejectedError(
            f"{url} refused the key ({said}); put the right one into the environment "
            "variable that model.api_key_env names."
        )
    chat_only = "chat/completions" in said or "chat model" in said
    if status in (404, 405) and (chat_only or "model" not in said.lower()):
        raise NoSuchRoute(f"{url} has no {route}; does the address end in /v1?")
    if status == 400 and ("context" in said.lower() or "too long" in said.lower()):
        raise ContextLengthError(f"The prompt does not fit the model's context ({said}).")
    raise ModelRejectedError(f"{url} refused the request (status {status}: {said}).")


_HEAD_BYTES = 64 << 10
"""Longest head of an answer, and longest line of a chunk's size."""
_STATUS = re.compile(rb"HTTP/1\.([01]) (\d{3})(?: [^\r\n]*)?")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,12})[ \t]*(?:;[^\r\n]*)?")


@dataclass(slots=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    """By lower-case name; of several with one name the last."""
    body: bytearray = field(default_factory=bytearray)
    too_long: bool = False
    """Whether it had more than `most` bytes and was broken off."""


class HttpConnection(asyncio.Protocol):
    """A connection, opened by `connect`. Raises httpx's errors, as its clients do."""

    def __init__(self) -> None:
        self.usable = False
        """Whether another request can be sent."""
        self._transport: asyncio.Transport | None = None
        self._seen = bytearray()
        self._answer: Answer | None = None
        self._left: int | None = None
        """Bytes of the body still to come; None where its end is not known beforehand."""
        self._chunked = self._between = False
        self._most = 0
        self._waiting: asyncio.Future[Answer] | None = None

    async def request(self, request: bytes, most: int) -> Answer:
        """The answer to a request, of at most `most` bytes. Cancelled, it breaks the connection."""
        assert self._transport is not None
        self._answer, self._most = None, most
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            self._transport.write(request)
            return await self._waiting
        except BaseException:
            self.abort()
            raise
        finally:
            self._waiting = None

    def abort(self) -> None:
        """Break the connection."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: it is open."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.usable = True

    def connection_lost(self, error: Exception | None) -> None:
        """asyncio: it is gone; that ends a body whose length was not said."""
        self.usable = False
        answer = self._answer
        whole = answer is not None and self._left is None and not self._chunked
        if whole and error is None:
            self._done()
        else:
            self._fail(httpx.ReadError(str(error or "Server disconnected without an answer.")))

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes came."""
        if self._waiting is None or self._waiting.done():
            self.abort()
            return
        self._seen += data
        try:
            while self._answer is None:
                if not self._read_head():
                    return
            self._read_body(self._answer)
        except ValueError as error:
            self._fail(httpx.RemoteProtocolError(str(error)))
            self.abort()

    def _read_head(self) -> bool:
        """Take the head in; False while it is not whole."""
        end = self._seen.find(b"\r\n\r\n")
        if end < 0:
            if len(self._seen) > _HEAD_BYTES:
                raise ValueError("The answer's head does not end.")
            return False
        first, *lines = bytes(self._seen[:end]).split(b"\r\n")
        del self._seen[: end + 4]
        match = _STATUS.fullmatch(first)
        if match is None:
            raise ValueError("The answer is no HTTP/1.1.")
        if match[2].startswith(b"1"):
            return True
        pairs = (line.decode("latin-1").partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        self._answer = Answer(int(match[2]), headers)
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        self._between = False
        length = headers.get("content-length")
        if length is not None and not (length.isascii() and length.isdecimal()):
            raise ValueError(f"The answer's length is {length[:40]!r}.")
        self._left = None if length is None or self._chunked else int(length)
        if match[2] in (b"204", b"304"):
            self._left, self._chunked = 0, False
        ends = headers.get("connection", "").lower()
        if "close" in ends or (match[1] == b"0" and "keep-alive" not in ends):
            self.usable = False
        return True

    def _read_body(self, answer: Answer) -> None:
        """Take in what came of the body."""
        while self._take(answer):
            if not self._next_chunk():
                return
        if len(answer.body) > self._most:
            answer.too_long = True
            self._done()
            self.abort()
        elif self._left == 0 and not self._chunked:
            self._done()

    def _take(self, answer: Answer) -> bool:
        """Move bytes to the body; True where a chunk's size comes next."""
        if self._chunked and not self._left:
            return len(answer.body) <= self._most
        part = self._seen if self._left is None else self._seen[: self._left]
        answer.body += part
        if self._left is not None:
            self._left -= len(part)
        del self._seen[: len(part)]
        self._between = self._chunked and not self._left
        return self._between and len(answer.body) <= self._most

    def _next_chunk(self) -> bool:
        """Read the size of the next chunk; False while it is not there. The last one ends the
        body, once its trailer is there."""
        skip = 2 if self._between else 0
        end = self._seen.find(b"\r\n", skip)
        if end < 0:
            if len(self._seen) > _HEAD_BYTES:
                raise ValueError("A chunk's size does not end.")
            return False
        match = _SIZE.fullmatch(self._seen[skip:end])
        if match is None or (skip and self._seen[:2] != b"\r\n"):
            raise ValueError("A chunk of the answer has no size.")
        size = int(match[1], 16)
        if size:
            del self._seen[: end + 2]
            self._left, self._between = size, False
            return True
        over = self._seen.find(b"\r\n\r\n", end)
        if over < 0:
            if len(self._seen) > _HEAD_BYTES:
                raise ValueError("The answer's trailer does not end.")
            return False
        del self._seen[: over + 4]
        self._left, self._chunked = 0, False
        self._done()
        return False

    def _done(self) -> None:
        """Hand the answer over."""
        if self._seen:
            self.usable = False
        self._seen.clear()
        if self._waiting is not None and not self._waiting.done() and self._answer is not None:
            self._waiting.set_result(self._answer)
            if not self.usable:
                self.abort()

    def _fail(self, error: httpx.TransportError) -> None:
        """Hand an error over."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)


async def connect(host: str, port: int, timeout_s: float) -> HttpConnection:
    """A connection to a server. Raises `httpx.ConnectError` and `httpx.ConnectTimeout`."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            _, line = await loop.create_connection(
                HttpConnection, host, port, happy_eyeballs_delay=0.25
            )
    except TimeoutError as error:
        raise httpx.ConnectTimeout(f"no connection in {timeout_s:g} s") from error
    except OSError as error:
        raise httpx.ConnectError(str(error)) from error
    return line


_CONNECT_S = 10.0


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request as it is sent, as often as it must be."""

    method: str
    url: str
    data: bytes | None = None
    """JSON."""


class ConnectionPool:
    """Connections that are opened as they are needed and used again.

    A pool of httpx looks through all its connections whenever a request begins or ends: with 256
    in flight that took ten times as long as everything else. So each httpx client has one
    connection; and a server in the clear, without a proxy between, is spoken to without httpx
    (`llm/transport.py`), at a quarter of the processor time. Raises `ConfigError` for a key that
    cannot be sent and `MissingDependencyError` where a proxy needs a package.
    """

    def __init__(self, url: str, key: str | None) -> None:
        local = url.startswith(("http://127.", "http://localhost", "http://[::1]"))
        self._trust_env = not local
        self._headers = {"Accept-Encoding": "identity"}
        if key is not None and key.strip():
            self._headers["Authorization"] = f"Bearer {key.strip()}"
        self._tls = _tls(self._trust_env)
        self._all: list[httpx.AsyncClient] = []
        self._idle: list[httpx.AsyncClient] = [self._open()]
        self._plain = _plain(url, local=local)
        self._lines: set[HttpConnection] = set()
        self._free: list[HttpConnection] = []

    @staticmethod
    def sending(method: str, url: str, body: object = None) -> HttpRequest:
        """A request for JSON."""
        return HttpRequest(method, url, None if body is None else _encoded(body))

    async def send(self, sending: HttpRequest, most: int) -> Answer:
        """The answer to a request, of at most `most` bytes. Raises httpx's errors; cancelled, it
        breaks the connection."""
        if self._plain is not None and (answer := await self._by_line(self._plain, sending, most)):
            return answer
        client = self._idle.pop() if self._idle else self._open()
        try:
            answer = await self._by_httpx(client, sending, most)
        except BaseException:
            # A request that was cut short may leave its connection taken for ever.
            self._all.remove(client)
            await asyncio.shield(client.aclose())
            raise
        self._idle.append(client)
        return answer

    async def aclose(self) -> None:
        """Close all connections; requests in flight are cancelled."""
        for line in list(self._lines):
            line.abort()
        for client in self._all:
            await client.aclose()

    async def _by_line(self, to: httpx.URL, sending: HttpRequest, most: int) -> Answer | None:
        """The answer over a bare connection; None where only httpx can read it. The connection
        used last is taken, so that it is fresh."""
        while self._free and not self._free[-1].usable:
            self._lines.discard(self._free.pop())
        if self._free:
            line = self._free.pop()
        else:
            line = await connect(to.host, to.port or 80, _CONNECT_S)
            self._lines.add(line)
        try:
            answer = await line.request(self._said(to, sending), most)
        except BaseException:
            self._lines.discard(line)
            raise
        if line.usable:
            self._free.append(line)
        else:
            self._lines.discard(line)
        if answer.headers.get("content-encoding", "identity") != "identity":
            self._plain = None
            return None
        return answer

    def _said(self, to: httpx.URL, sending: HttpRequest) -> bytes:
        """A request on the wire."""
        path = _path(sending.url)
        lines = [sending.method.encode() + b" " + path + b" HTTP/1.1", b"Host: " + to.netloc]
        lines += [f"{name}: {value}".encode("ascii") for name, value in self._headers.items()]
        lines += [b"Accept: */*", b"User-Agent: rstar-math"]
        if sending.data is not None:
            lines += [b"Content-Type: application/json"]
            lines += [b"Content-Length: %d" % len(sending.data)]
        return b"\r\n".join([*lines, b"", sending.data or b""])

    async def _by_httpx(self, client: httpx.AsyncClient, sending: HttpRequest, most: int) -> Answer:
        """The answer over a client that nobody else uses."""
        content = {} if sending.data is None else {"Content-Type": "application/json"}
        request = client.build_request(
            sending.method, sending.url, content=sending.data, headers=content
        )
        response = await client.send(request, stream=True)
        answer = Answer(response.status_code, dict(response.headers))
        try:
            async for part in response.aiter_bytes():
                answer.body += part
                if len(answer.body) > most:
                    answer.too_long = True
                    break
        finally:
            await response.aclose()
        return answer

    def _open(self) -> httpx.AsyncClient:
        """One more client; the loopback is never reached through a proxy."""
        try:
            client = httpx.AsyncClient(
                headers=self._headers,
                timeout=httpx.Timeout(None, connect=_CONNECT_S),
                limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
                verify=self._tls,
                trust_env=self._trust_env,
            )
        except UnicodeEncodeError:
            raise ConfigError(
                "The server's key has a character that is not ASCII; correct the environment "
                "variable that model.api_key_env names."
            ) from None
        except ImportError as error:
            raise MissingDependencyError(
                "A SOCKS proxy is set; type: pip install 'httpx[socks]'."
            ) from error
        self._all.append(client)
        return client


def _plain(url: str, *, local: bool) -> httpx.URL | None:
    """The address of a server that is spoken to in the clear and without a proxy; None for
    others, and for what is no address, which httpx says best."""
    try:
        to = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        return None
    if to.scheme != "http" or not to.host or to.userinfo:
        return None
    proxies = getproxies()
    between = not local and ("http" in proxies or "all" in proxies) and not proxy_bypass(to.host)
    return None if between else to


@lru_cache(2)
def _tls(trust_env: bool) -> ssl.SSLContext:
    """What connections are secured with: takes 30 ms to make, so all servers share it."""
    return httpx.create_ssl_context(trust_env=trust_env)


@lru_cache(16)
def _path(url: str) -> bytes:
    """The path of an address."""
    return httpx.URL(url).raw_path


def _encoded(body: object) -> bytes:
    """JSON as httpx writes it."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8")
