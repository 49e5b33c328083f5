"""Connections to one server, one request on each at a time."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

import httpx

from rstar_math.errors import ConfigError, MissingExtra


@cache
def _tls(trust_env: bool) -> ssl.SSLContext:
    """What connections are secured with: takes 30 ms to make, so all servers share it."""
    return httpx.create_ssl_context(trust_env=trust_env)


class Lanes:
    """HTTP clients that hold one connection each, opened as they are needed and used again.

    A pool of httpx looks through all its connections whenever a request begins or ends: with 256
    in flight that took ten times as long as everything else. Raises `ConfigError` for a key that
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
        self._maker = self._open()
        self._idle: list[httpx.AsyncClient] = []

    @asynccontextmanager
    async def free(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client that nobody else uses for as long as the block runs: the one used last, so that
        its connection is fresh."""
        client = self._idle.pop() if self._idle else self._open()
        try:
            yield client
        except BaseException:
            # A request that was cut short may leave its connection taken for ever.
            self._all.remove(client)
            await asyncio.shield(client.aclose())
            raise
        self._idle.append(client)

    def request(self, method: str, url: str, json: object = None) -> httpx.Request:
        """A request with the headers that all have."""
        return self._maker.build_request(method, url, json=json)

    async def aclose(self) -> None:
        """Close all connections; requests in flight are cancelled."""
        for client in self._all:
            await client.aclose()

    def _open(self) -> httpx.AsyncClient:
        """One more client; the loopback is never reached through a proxy."""
        try:
            client = httpx.AsyncClient(
                headers=self._headers,
                timeout=httpx.Timeout(None, connect=10.0),
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
