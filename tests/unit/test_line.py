"""The bare HTTP connection to a model server: answers of all forms, in any pieces, and none."""

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.llm.transport import HttpConnection, HttpResponse, connect

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: a\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nTrailer: 1\r\n\r\n"
)
CHUNKED_BARE = b"HTTP/1.1 200\r\ntransfer-encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.0 200 OK\r\n\r\nhello"
EARLY = b"HTTP/1.1 100 Continue\r\n\r\n"


class Wire(asyncio.Transport):
    """A transport that goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.broken = False

    def write(self, data: Any) -> None:
        self.written += data

    def abort(self) -> None:
        self.broken = True


def answer(
    pieces: Sequence[bytes], *, most: int = 100, close: bool = False
) -> tuple[HttpResponse, HttpConnection]:
    """What a connection makes of these pieces."""

    async def run() -> tuple[HttpResponse, HttpConnection]:
        line = HttpConnection()
        line.connection_made(Wire())
        asked = asyncio.create_task(line.request(b"GET", most))
        await asyncio.sleep(0)
        for piece in pieces:
            line.data_received(piece)
        if close:
            line.connection_lost(None)
        async with asyncio.timeout(1):
            return await asked, line

    return asyncio.run(run())


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """Data in pieces, none of them empty."""
    ends = sorted({place % len(data) for place in places} - {0})
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


@given(
    data=st.sampled_from([PLAIN, CHUNKED, CHUNKED_BARE, EARLY + PLAIN, EARLY * 3 + CHUNKED]),
    places=st.lists(st.integers(0, 200), max_size=12),
)
def test_an_answer_is_the_same_in_any_pieces(data: bytes, places: list[int]) -> None:
    got, line = answer(cut(data, places))
    assert (got.status, bytes(got.body), got.truncated) == (200, b"hello", False)
    assert line.usable


@given(places=st.lists(st.integers(0, 200), max_size=5))
def test_without_a_length_the_end_of_the_connection_ends_the_answer(places: list[int]) -> None:
    got, line = answer(cut(UNTIL_CLOSE, places), close=True)
    assert bytes(got.body) == b"hello"
    assert not line.usable


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 200 OK\r\nConnection: close\r\n", b"HTTP/1.0 200 OK\r\n"],
)
def test_a_connection_that_the_server_ends_is_not_used_again(head: bytes) -> None:
    got, line = answer([head + b"Content-Length: 2\r\n\r\nhi"])
    assert bytes(got.body) == b"hi"
    assert not line.usable


def test_an_answer_without_a_body_is_whole() -> None:
    assert answer([b"HTTP/1.1 204 No Content\r\n\r\n"])[0].body == b""
    assert answer([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])[0].body == b""


@pytest.mark.parametrize("data", [PLAIN, CHUNKED, UNTIL_CLOSE])
def test_more_than_is_allowed_is_broken_off(data: bytes) -> None:
    got, line = answer([data], most=3)
    assert got.truncated
    assert not line.usable


def test_bytes_that_nobody_asked_for_make_a_connection_useless() -> None:
    assert not answer([PLAIN + b"HTTP/1.1 200 OK"])[1].usable
    line = HttpConnection()
    line.connection_made(Wire())
    line.data_received(b"HTTP/1.1 408 Timeout\r\n\r\n")
    assert not line.usable


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n",
        b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;" + b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"x" * 70_000,
    ],
)
def test_what_is_no_answer_is_an_error(data: bytes) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        answer([data])


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200", PLAIN[:-1], CHUNKED[:-1]])
def test_an_answer_that_breaks_off_is_an_error(data: bytes) -> None:
    with pytest.raises(httpx.ReadError):
        answer([data], close=True)


@given(data=st.binary(max_size=200))
def test_no_bytes_are_a_bug(data: bytes) -> None:
    try:
        answer([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", data], close=True)
    except httpx.TransportError:
        return


def test_where_nothing_listens_is_an_error() -> None:
    with pytest.raises(httpx.ConnectError):
        asyncio.run(connect("127.0.0.1", 1, 5.0))
