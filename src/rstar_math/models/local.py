"""The embedded model: a llama.cpp server inside this process, spoken to over the loopback like
any other.

It listens on a port of its own choice behind a random key, so that no other user of the machine
can use it.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rstar_math.errors import MissingExtra, ModelRefused
from rstar_math.models.dialects import LLAMA_CPP
from rstar_math.models.http import HttpModel, Retry
from rstar_math.models.weights import weights_file
from rstar_math.protocols import Completion

_PATIENCE_S = 86_400.0
"""Longest wait for the embedded model: it is slow where the machine is busy, and never lost."""


class LocalModel:
    """A Completer on a GGUF file; loads the weights when made (about 1 s for SmolLM2-135M)."""

    def __init__(self, model: str, *, streams: int, context_tokens: int) -> None:
        path = weights_file(model)
        self._server = _start(path, streams=streams, context_tokens=context_tokens)
        self._http = HttpModel(
            f"{self._server[0].listening_address}/v1",
            name=path.stem,
            key=self._server[1],
            concurrency=4 * streams,
            retry=Retry(tries=0, timeout_s=_PATIENCE_S),
        )
        self._http.dialect = LLAMA_CPP
        self._http.batch = streams
        self._streams = Streams(streams)
        self.name = path.stem

    async def complete(
        self,
        prompt: str,
        *,
        n: int,
        stop: Sequence[str],
        max_tokens: int,
        temperature: float,
        seed: int,
    ) -> list[Completion]:
        """See `protocols.Completer`. Waits until as many streams are free as samples are asked
        for: a request that waited inside the server would hold back smaller ones, and take the
        stream that has its prefix in its cache from the next that needs it."""
        async with self._streams.taken(n):
            return await self._http.complete(
                prompt, n=n, stop=stop, max_tokens=max_tokens, temperature=temperature, seed=seed
            )

    async def aclose(self) -> None:
        """Close the connections and free the weights."""
        await self._http.aclose()
        del self._server


class Streams:
    """The streams of an engine, given out in the order of asking; who wants few may pass one who
    wants more than are free."""

    def __init__(self, total: int) -> None:
        self._total = self._free = total
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def taken(self, n: int) -> AsyncIterator[None]:
        """`n` streams (or all, where there are fewer) for as long as the block runs. Being
        cancelled while waiting leaves nothing behind."""
        n = min(n, self._total)
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((n, turn))
        self._admit()
        try:
            await turn
            yield
        finally:
            if (n, turn) in self._waiting:
                self._waiting.remove((n, turn))
            else:
                self._free += n
                self._admit()

    def _admit(self) -> None:
        """Give turns to all that fit."""
        for n, turn in list(self._waiting):
            if n <= self._free:
                self._waiting.remove((n, turn))
                self._free -= n
                if not turn.done():
                    turn.set_result(None)


def _start(path: Path, *, streams: int, context_tokens: int) -> tuple[Any, str]:
    """A running server and its key."""
    try:
        import xllamacpp
    except ImportError as error:
        raise MissingExtra(
            "The embedded model needs xllamacpp; type: pip install 'rstar-math[local]' "
            "(or name a server with --model http://host:port/v1)."
        ) from error
    key = secrets.token_urlsafe(24)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = streams
    params.n_ctx = streams * context_tokens
    params.kv_unified = False
    params.cache_ram_mib = 0
    params.warmup = False
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [key]
    params.ui = False
    params.verbosity = -1
    params.cpuparams.n_threads = len(os.sched_getaffinity(0))
    try:
        return xllamacpp.Server(params), key
    except RuntimeError as error:
        raise ModelRefused(
            f"llama.cpp cannot load {path}: {error}; is it a whole GGUF file?"
        ) from error
