"""The embedded model: a llama.cpp server inside this process, spoken to over the loopback like
any other."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from rstar_math.config import LOCAL, TRAINED
from rstar_math.models.dialects import LLAMA_CPP
from rstar_math.models.engine import EngineSettings, engine_client, start
from rstar_math.models.gguf_adapters import check_adapter
from rstar_math.models.gguf_files import check_policy
from rstar_math.models.prompting import prompting_of_gguf
from rstar_math.models.weights import weights_file
from rstar_math.protocols import Completion


class LocalModel:
    """A Completer on a GGUF file, with a LoRA adapter if one is named; loads the weights when made
    (about 1 s for SmolLM2-135M)."""

    def __init__(
        self, model: str, *, streams: int, context_tokens: int, adapter: str | None = None
    ) -> None:
        path = weights_file(model)
        lora = Path(adapter).expanduser() if adapter else None
        if model not in (LOCAL, TRAINED):
            check_policy(path)
        if lora is not None:
            check_adapter(lora, path, kind="policy")
        self._server = start(path, EngineSettings(streams, context_tokens, lora))
        self._http = engine_client(self._server, path.stem, 4 * streams)
        self._http.dialect = LLAMA_CPP
        self._http.batch = streams
        self._streams = Streams(streams)
        self.prompting = prompting_of_gguf(path, lora)
        self.name = path.stem if lora is None else f"{path.stem}+{lora.stem}"

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
