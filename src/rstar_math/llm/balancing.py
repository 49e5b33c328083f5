"""Balances requests over several servers of one model: affinity, rate limits, failover."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from hashlib import blake2b
from types import TracebackType

import httpx

from rstar_math.errors import ModelRejectedError
from rstar_math.llm.transport import ConnectionPool, HttpRequest, Reply, retry_after_s

_tree: ContextVar[str | None] = ContextVar("rstar_math_tree", default=None)
_QUESTION = "\nQuestion:"


@contextmanager
def request_affinity(tree: str) -> Iterator[None]:
    """A block whose requests belong to one tree."""
    token = _tree.set(tree)
    try:
        yield
    finally:
        _tree.reset(token)


def affinity_key(prompt: str) -> str:
    """What the requests of this context belong to; outside of any tree the question that a prompt
    ends with (the line that begins with `Question:`), else the prompt's end; "" for none."""
    tree = _tree.get()
    if tree is not None:
        return tree
    at = f"\n{prompt}".rfind(_QUESTION)
    return prompt[-200:] if at < 0 else prompt[at:].lstrip("\n").partition("\n")[0]


class AdaptiveLimiter:
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
    def slot(self) -> int:
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

    def on_success(self) -> None:
        """Take note of a request that was answered."""
        self._level = min(self._level + 1.0 / self._level, float(self.most))
        self._admit()

    def on_overload(self, since: int) -> None:
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


TOO_SLOW = (TimeoutError, httpx.TimeoutException)
TRANSIENT_ERRORS = (httpx.RequestError, TimeoutError)
_OVERLOAD = frozenset({429, 503})
_MAX_BYTES = 64 << 20
"""Largest reply read, in bytes: hundreds of samples of thousands of tokens."""
LOAD_TOLERANCE = 0.25
"""How much more than its share a server may have to do before trees that live there ask another:
of 0.25, 0.5, 1 and no bound that with the shortest time in `benchmarks/affinity.py`."""
_PAUSE_S, _LONGEST_S = 0.5, 30.0
"""First and longest time that a server in trouble is left alone before it is probed."""
_PROBE_S = 10.0
"""Longest time for a probe."""


class Replica:
    """One server: its connections, what it may be given at once, what it has to do, how it
    fares."""

    def __init__(self, url: str, key: str | None, concurrency: int) -> None:
        self.url = url.rstrip("/")
        self.limiter = AdaptiveLimiter(concurrency)
        self.outstanding = 0
        """Tokens that may yet be sampled for the requests it was given."""
        self.troubles = 0
        """How often in a row it failed."""
        self.out_until = 0.0
        """When it may be asked again (`time.monotonic`); 0 where it is in use."""
        self._lanes = ConnectionPool(self.url, key)

    @property
    def root(self) -> str:
        """The address without /v1."""
        return self.url.removesuffix("/v1")

    async def aclose(self) -> None:
        """Close all connections; requests in flight are cancelled."""
        await self._lanes.aclose()

    async def get(self, address: str, timeout_s: float) -> Reply:
        """The reply to a GET, past the limit on requests in flight."""
        return await self.send(self._lanes.sending("GET", address), timeout_s)

    async def post(self, address: str, body: object, timeout_s: float) -> Reply:
        """The reply to a POST, past the limit on requests in flight."""
        return await self.send(self._lanes.sending("POST", address, body), timeout_s)

    async def work(self, address: str, body: object, timeout_s: float, tokens: int) -> Reply:
        """The reply to a POST, sent when its turn comes; `tokens` is the most that it may sample.
        Raises what `TRANSIENT_ERRORS` names."""
        request = self._lanes.sending("POST", address, body)
        self.outstanding += tokens
        try:
            async with self.limiter:
                since = self.limiter.cuts
                try:
                    reply = await self.send(request, timeout_s)
                except TOO_SLOW:
                    self.limiter.on_overload(since)
                    raise
                if reply.status in _OVERLOAD:
                    self.limiter.on_overload(since)
                elif reply.status < 300:
                    self.limiter.on_success()
                return reply
        finally:
            self.outstanding -= tokens

    async def send(self, request: HttpRequest, timeout_s: float) -> Reply:
        """The whole reply, in at most `timeout_s` seconds and `_MAX_BYTES` bytes."""
        async with asyncio.timeout(timeout_s):
            answer = await self._lanes.send(request, _MAX_BYTES)
        if answer.too_long:
            raise ModelRejectedError(
                f"{self.url} sent more than {_MAX_BYTES >> 20} MiB for one request; "
                "is it a model server?"
            )
        pause_s = retry_after_s(answer.headers.get("retry-after"))
        return Reply(answer.status, bytes(answer.body), pause_s)


class Replicas:
    """Chooses a server for each request: the one where the request's tree lives, if that one has
    not clearly more to do than its share.

    Where a tree lives is settled by rendezvous hashing (Thaler and Ravishankar 1998), so that it
    does not depend on what came before and few trees move when a server comes or goes; the share is
    consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, arXiv:1608.01350). A
    server in trouble is left out and probed with growing pauses until it answers; where all are in
    trouble, all are in use.
    """

    def __init__(
        self, urls: Iterable[str], key: str | None, concurrency: int, *, affinity: bool = True
    ) -> None:
        self.all = [Replica(url, key, concurrency) for url in urls]
        self.moved = 0
        """Requests that went elsewhere than where their tree lives, because that was busier."""
        self._affinity = affinity
        self._probes: dict[Replica, asyncio.Task[None]] = {}
        self.serves: Callable[[Reply], bool] = lambda reply: reply.status < 300
        """Whether the answer to a probe, the list of models, is that of a server of this model."""

    async def aclose(self) -> None:
        """Close all connections and end the probes."""
        for probe in self._probes.values():
            probe.cancel()
        await asyncio.gather(*self._probes.values(), return_exceptions=True)
        for replica in self.all:
            await replica.aclose()

    def select(self, tree: str, tokens: int, but: Sequence[Replica] = ()) -> Replica:
        """The server for a request of a tree ("": of none) that may sample so many tokens; none of
        `but`, which it was just given to in vain, if there is another."""
        if len(self.all) == 1:
            return self.all[0]
        self._probe()
        fit = [r for r in self.all if not r.out_until] or self.all
        fit = [r for r in fit if r not in but] or fit
        if not self._affinity or not tree:
            return min(fit, key=lambda r: r.outstanding)
        share = (sum(r.outstanding for r in fit) + tokens) / len(fit)
        most = max((1 + LOAD_TOLERANCE) * share, 8 * tokens)
        ranked = sorted(fit, key=lambda r: _rank(tree, r.url), reverse=True)
        chosen = next((r for r in ranked if r.outstanding + tokens <= most), ranked[0])
        self.moved += chosen is not ranked[0]
        return chosen

    def failed(self, replica: Replica) -> None:
        """Take note of a server that is gone, or answered that it is in trouble."""
        pause_s = min(_LONGEST_S, _PAUSE_S * 2.0**replica.troubles)
        replica.troubles = min(replica.troubles + 1, 16)
        replica.out_until = time.monotonic() + pause_s

    def succeeded(self, replica: Replica) -> None:
        """Take note of a server that answered."""
        replica.troubles, replica.out_until = 0, 0.0

    def _probe(self) -> None:
        """Ask those in trouble whose pause is over whether they are back."""
        now = time.monotonic()
        for replica in self.all:
            if 0.0 < replica.out_until <= now and replica not in self._probes:
                task = asyncio.create_task(self._ask(replica))
                self._probes[replica] = task

    async def _ask(self, replica: Replica) -> None:
        """Put a server to use again if it answers."""
        back = False
        try:
            with suppress(*TRANSIENT_ERRORS, ModelRejectedError):
                back = self.serves(await replica.get(f"{replica.url}/models", _PROBE_S))
            if back:
                replica.out_until = 0.0
            else:
                self.failed(replica)
        finally:
            del self._probes[replica]


def _rank(tree: str, url: str) -> bytes:
    """Where a server stands in the order of those that a tree asks."""
    return blake2b(f"{tree}\n{url}".encode("utf-8", "replace"), digest_size=8).digest()
