"""Connections to one server, one request on each at a time."""

import asyncio
import json
import ssl
from dataclasses import dataclass
from functools import lru_cache
from urllib.request import getproxies, proxy_bypass

import httpx

from rstar_math.errors import ConfigError, MissingExtra
from rstar_math.models.line import Answer, Line, open_line

_CONNECT_S = 10.0


@dataclass(frozen=True, slots=True)
class Sending:
    """A request as it is sent, as often as it must be."""

    method: str
    url: str
    data: bytes | None = None
    """JSON."""


class Lanes:
    """Connections that are opened as they are needed and used again.

    A pool of httpx looks through all its connections whenever a request begins or ends: with 256
    in flight that took ten times as long as everything else. So each httpx client has one
    connection; and a server in the clear, without a proxy between, is spoken to without httpx
    (`models/line.py`), at a quarter of the processor time. Raises `ConfigError` for a key that
    cannot be sent and `MissingExtra` where a proxy needs a package.
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
        self._lines: set[Line] = set()
        self._free: list[Line] = []

    @staticmethod
    def sending(method: str, url: str, body: object = None) -> Sending:
        """A request for JSON."""
        return Sending(method, url, None if body is None else _encoded(body))

    async def send(self, sending: Sending, most: int) -> Answer:
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
            line.hang_up()
        for client in self._all:
            await client.aclose()

    async def _by_line(self, to: httpx.URL, sending: Sending, most: int) -> Answer | None:
        """The answer over a bare connection; None where only httpx can read it. The connection
        used last is taken, so that it is fresh."""
        while self._free and not self._free[-1].usable:
            self._lines.discard(self._free.pop())
        if self._free:
            line = self._free.pop()
        else:
            line = await open_line(to.host, to.port or 80, _CONNECT_S)
            self._lines.add(line)
        try:
            answer = await line.exchange(self._said(to, sending), most)
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

    def _said(self, to: httpx.URL, sending: Sending) -> bytes:
        """A request on the wire."""
        path = _path(sending.url)
        lines = [sending.method.encode() + b" " + path + b" HTTP/1.1", b"Host: " + to.netloc]
        lines += [f"{name}: {value}".encode("ascii") for name, value in self._headers.items()]
        lines += [b"Accept: */*", b"User-Agent: rstar-math"]
        if sending.data is not None:
            lines += [b"Content-Type: application/json"]
            lines += [b"Content-Length: %d" % len(sending.data)]
        return b"\r\n".join([*lines, b"", sending.data or b""])

    async def _by_httpx(self, client: httpx.AsyncClient, sending: Sending, most: int) -> Answer:
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
            raise MissingExtra("A SOCKS proxy is set; type: pip install 'httpx[socks]'.") from error
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
