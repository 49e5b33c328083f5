"""The embedded model: a llama.cpp server inside this process, spoken to over the loopback like
any other.

It listens on a port of its own choice behind a random key, so that no other user of the machine
can use it.
"""

import os
import secrets
from pathlib import Path
from typing import Any

from rstar_math.errors import MissingExtra, ModelRefused
from rstar_math.models.dialects import LLAMA_CPP
from rstar_math.models.http import HttpModel, Retry
from rstar_math.models.weights import weights_file

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
        self.complete = self._http.complete
        self.name = path.stem

    async def aclose(self) -> None:
        """Close the connections and free the weights."""
        await self._http.aclose()
        del self._server


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
