"""How many requests a server is given at once, learned from what it refuses."""

import asyncio
from collections import deque
from types import TracebackType


class Limiter:
    """Lets at most `limit` requests be in flight, in the order in which they came.

        async with limiter:
            since = limiter.cuts
            ...
            limiter.succeeded()  # or limiter.overloaded(since)

    The limit begins at `most`, is halved when the server is overloaded, and grows by about one
    while as many requests succeed as are in flight: additive increase, multiplicative decrease
    (Chiu and Jain 1989), as in TCP. It stays within [1, most]. A caller that is cancelled while it
    waits, or just as its turn comes, leaves nothing behind.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.cuts = 0
        """How often the limit was halved."""
        self._level = float(most)
        self._held = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        """Most requests in flight at the moment, in [1, most]."""
        return int(self._level)

    @property
    def held(self) -> int:
        """Requests in flight; for a while more than `limit` after it was halved."""
        return self._held

    async def __aenter__(self) -> None:
        if self._held < self.limit and not self._waiting:
            self._held += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._leave()
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()

    def succeeded(self) -> None:
        """Take note of a request that was answered."""
        self._level = min(self._level + 1.0 / self._level, float(self.most))
        self._admit()

    def overloaded(self, since: int) -> None:
        """Take note of a request that the server refused or was too slow for, sent when `cuts` was
        `since`. Of the requests that were in flight together only the first halves the limit."""
        if since == self.cuts:
            self.cuts += 1
            self._level = max(1.0, self._level / 2.0)

    def _leave(self) -> None:
        self._held -= 1
        self._admit()

    def _admit(self) -> None:
        """Give turns to those that wait, first come first served."""
        while self._waiting and self._held < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self._held += 1
                turn.set_result(None)
