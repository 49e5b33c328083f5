"""A model that answers the same request the same way twice."""

from collections.abc import Sequence
from dataclasses import replace

from rstar_math.meter import charge, metering
from rstar_math.protocols import Completer, Completion
from rstar_math.types import Cost

_Key = tuple[str, int, tuple[str, ...], int, float, int]


class Remembering:
    """A Completer that asks another and keeps what it said: a request that comes again gets the
    same completions and the same bill, and is not asked.

    Batching servers do not decode the same request to the same text twice, whatever the seed; two
    searches are compared through this one. Holds all answers in memory.
    """

    def __init__(self, inner: Completer) -> None:
        self._inner = inner
        self._known: dict[_Key, tuple[list[Completion], Cost]] = {}
        self.prompting = getattr(inner, "prompting", None)
        self.asked = 0
        """Requests that went to the other model."""

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
        """See `protocols.Completer`. An error is not kept: the next request is asked."""
        key = (prompt, n, tuple(stop), max_tokens, temperature, seed)
        if key in self._known:
            found, bill = self._known[key]
            charge(bill)
            return list(found)
        self.asked += 1
        with metering() as cost:
            found = await self._inner.complete(
                prompt, n=n, stop=stop, max_tokens=max_tokens, temperature=temperature, seed=seed
            )
        self._known[key] = list(found), replace(cost)
        return found
