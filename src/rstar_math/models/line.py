"""One HTTP/1.1 connection to a server in the clear, one request at a time.

What a client library does for a request (pools, hooks, events, redirects, cookies) costs a few
times what a search does with the answer, and hundreds of requests are in flight. Here is only what
a POST of JSON to a model server takes; TLS and proxies are left to httpx.
"""

import asyncio
import re
from dataclasses import dataclass, field

import httpx

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


class Line(asyncio.Protocol):
    """A connection, opened by `open_line`. Raises httpx's errors, as its clients do."""

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

    async def exchange(self, request: bytes, most: int) -> Answer:
        """The answer to a request, of at most `most` bytes. Cancelled, it breaks the connection."""
        assert self._transport is not None
        self._answer, self._most = None, most
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            self._transport.write(request)
            return await self._waiting
        except BaseException:
            self.hang_up()
            raise
        finally:
            self._waiting = None

    def hang_up(self) -> None:
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
            self.hang_up()
            return
        self._seen += data
        try:
            while self._answer is None:
                if not self._read_head():
                    return
            self._read_body(self._answer)
        except ValueError as error:
            self._fail(httpx.RemoteProtocolError(str(error)))
            self.hang_up()

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
            self.hang_up()
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
                self.hang_up()

    def _fail(self, error: httpx.TransportError) -> None:
        """Hand an error over."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)


async def open_line(host: str, port: int, timeout_s: float) -> Line:
    """A connection to a server. Raises `httpx.ConnectError` and `httpx.ConnectTimeout`."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            _, line = await loop.create_connection(Line, host, port, happy_eyeballs_delay=0.25)
    except TimeoutError as error:
        raise httpx.ConnectTimeout(f"no connection in {timeout_s:g} s") from error
    except OSError as error:
        raise httpx.ConnectError(str(error)) from error
    return line
