"""The embedded model: a llama.cpp server inside this process, spoken to over the loopback like
any other."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rstar_math.config import LOCAL, TRAINED
from rstar_math.errors import ContextExceeded, ModelError, RequestFailed
from rstar_math.meter import charge
from rstar_math.models.dialects import LLAMA_CPP, Ask
from rstar_math.models.engine import EngineSettings, engine_client, start
from rstar_math.models.gguf_adapters import check_adapter
from rstar_math.models.gguf_files import check_policy
from rstar_math.models.prompting import prompting_of_gguf
from rstar_math.models.readers import tokens_of
from rstar_math.models.slots import Slot, Slots
from rstar_math.models.weights import weights_file
from rstar_math.protocols import Completion
from rstar_math.tasks import together
from rstar_math.types import Cost


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
        self.prompting = prompting_of_gguf(path, lora)
        self._slots = Slots(self._http, streams, empty="")
        self.name = path.stem if lora is None else f"{path.stem}+{lora.stem}"

    @property
    def server(self) -> Any:
        """The server of xllamacpp, for its metrics."""
        return self._server[0]

    async def tokens(self, text: str) -> tuple[int, ...]:
        """A text in the model's own tokens."""
        return await tokens_of(self._http, text)

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
        """See `protocols.Completer`. The prompt is computed once; each sample then runs in a slot
        of its own, as soon as one is free. A sample that fails alone is left out."""
        ask = Ask(self._http.name, prompt, 1, tuple(stop), max_tokens, temperature, seed)
        cached = await self._slots.share(prompt, n, partial(self._compute, prompt))
        asks = [replace(ask, seed=(seed + at) % 2**32) for at in range(n)]
        parts = await together(self._sample(one, keep=n == 1) for one in asks)
        answered = [part for part in parts if isinstance(part, tuple)]
        if not answered:
            raise next(part for part in parts if isinstance(part, RequestFailed))
        costs = [cost for _, cost in answered]
        first = costs[0]
        charge(
            Cost(
                calls=1,
                samples=len(answered),
                prompt_tokens=first.prompt_tokens,
                cached_tokens=first.cached_tokens if cached is None else cached,
                sampled_tokens=sum(cost.sampled_tokens for cost in costs),
            )
        )
        return [completion for found, _ in answered for completion in found]

    async def _compute(self, prompt: str, slot: Slot[str]) -> int | None:
        """Compute a prompt in a slot without sampling, except its last token: each sample computes
        that one anyway. Returns the tokens that the slot had already, or None for a failure, which
        the samples will meet too. Raises `ContextExceeded`."""
        try:
            tokens = await self.tokens(prompt)
            body = {"prompt": list(tokens[:-1] or tokens), "id_slot": slot.number}
            body |= {"n_predict": 0, "cache_prompt": True}
            answer = await self._http.post("/completion", body, beside_v1=True)
        except ContextExceeded:
            raise
        except ModelError:
            return None
        timings = answer.get("timings") if isinstance(answer, dict) else None
        return int(timings.get("cache_n") or 0) if isinstance(timings, dict) else 0

    async def _sample(
        self, ask: Ask, *, keep: bool
    ) -> tuple[list[Completion], Cost] | RequestFailed:
        """One sample and its cost, or why it failed while others succeed."""
        async with self._slots.taken(ask.prompt, keep=keep) as slot:
            try:
                found, cost = await self._http.sample(replace(ask, slot=slot.number))
            except RequestFailed as error:
                slot.holds = ""
                return error
            slot.holds = ask.prompt + "".join(completion.text for completion in found)
            return found, cost

    async def aclose(self) -> None:
        """Close the connections and free the weights."""
        await self._http.aclose()
        del self._server
        self._slots.close()
