"""Balances requests over several servers of one model: affinity, rate limits, failover."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from hashlib import blake2b
from types import TracebackType

import aiohttp

from rstar_math.errors import ModelRejectedError
from rstar_math.llm.replies import Reply, retry_after_s
from rstar_math.llm.transport import ConnectionPool, HttpRequest
from rstar_math.llm.workarounds import Workarounds

LOG = logging.getLogger("rstar_math")
_current_tree: ContextVar[str | None] = ContextVar("rstar_math_tree", default=None)
_QUESTION = "\nQuestion:"


@contextmanager
def request_affinity(tree: str) -> Iterator[None]:
    """Marks all requests made in the block as requests of the search tree with the key `tree`.

    Requests of one tree share prefixes, so they go to one server and hit its prefix cache.
    """
    token = _current_tree.set(tree)
    try:
        yield
    finally:
        _current_tree.reset(token)


def affinity_key(prompt: str) -> str:
    """Returns the key that decides which server gets a request; "" for an empty prompt.

    The key is the tree of the current `request_affinity` block. Outside of such a block it is the
    prompt's last line that begins with `Question:`, or else the last 200 characters of the prompt.
    """
    tree = _current_tree.get()
    if tree is not None:
        return tree
    at = f"\n{prompt}".rfind(_QUESTION)
    return prompt[-200:] if at < 0 else prompt[at:].lstrip("\n").partition("\n")[0]


class AdaptiveLimiter:
    """Admits at most `limit` requests at a time, first come, first served.

        async with limiter:
            reductions = limiter.reductions
            ...
            limiter.on_success()  # or limiter.on_overload(reductions)

    The limit starts at `maximum` and stays in [1, maximum]. It halves when the server is
    overloaded. It grows by about one after as many successes as requests are in flight. This is
    additive increase, multiplicative decrease (Chiu and Jain 1989), as in TCP. Cancelling a waiting
    caller, even at the moment it is admitted, takes up no place.
    """

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.reductions = 0
        """How often the limit was halved."""
        self._limit = float(maximum)
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        """Current maximum number of requests in flight, in [1, maximum]."""
        return int(self._limit)

    @property
    def in_flight(self) -> int:
        """Number of requests in flight. It can exceed `limit` for a while after a reduction."""
        return self._in_flight

    async def __aenter__(self) -> None:
        if self._in_flight < self.limit and not self._waiting:
            self._in_flight += 1
            return
        admitted = asyncio.get_running_loop().create_future()
        self._waiting.append(admitted)
        try:
            await admitted
        except asyncio.CancelledError:
            if not admitted.cancelled():
                self._release()
            elif admitted in self._waiting:
                self._waiting.remove(admitted)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._release()

    def on_success(self) -> None:
        """Raises the limit slightly after a successful request."""
        self._limit = min(self._limit + 1.0 / self._limit, float(self.maximum))
        self._admit_waiting()

    def on_overload(self, reductions: int) -> bool:
        """Halves the limit after the server rejected a request or was too slow for it.

        `reductions` is the counter's value when the request was sent. Of all requests that were in
        flight together, only the first to fail halves the limit. Returns whether it was halved.
        """
        if reductions != self.reductions:
            return False
        self.reductions += 1
        self._limit = max(1.0, self._limit / 2.0)
        return True

    def _release(self) -> None:
        self._in_flight -= 1
        self._admit_waiting()

    def _admit_waiting(self) -> None:
        while self._waiting and self._in_flight < self.limit:
            admitted = self._waiting.popleft()
            if not admitted.done():
                self._in_flight += 1
                admitted.set_result(None)


TIMEOUT_ERRORS = (TimeoutError,)
TRANSIENT_ERRORS = (aiohttp.ClientError, TimeoutError)
_OVERLOAD_STATUSES = frozenset({429, 503})
_MAX_REPLY_BYTES = 64 << 20
"""Maximum size of a reply: enough for hundreds of samples of thousands of tokens."""
LOAD_TOLERANCE = 0.25
"""A server may exceed its fair share of tokens by this factor before its trees use another server.
0.25 was fastest of 0.25, 0.5, 1 and infinity in `benchmarks/affinity.py`."""
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.5, 30.0
"""First and longest pause before a failed server is probed."""
_PROBE_TIMEOUT_S = 10.0


class Replica:
    """One server: its connections, its request limit, its load and its health."""

    def __init__(self, url: str, key: str | None, concurrency: int) -> None:
        self.url = url.rstrip("/")
        self.limiter = AdaptiveLimiter(concurrency)
        self.outstanding_tokens = 0
        """Maximum number of tokens that the requests in flight may still sample."""
        self.consecutive_failures = 0
        self.probe_at = 0.0
        """Time of the next probe of a failed server (`time.monotonic`); 0 for a healthy server."""
        self.workarounds = Workarounds(self.url)
        self._connections = ConnectionPool(self.url, key)

    @property
    def root(self) -> str:
        """The address without /v1."""
        return self.url.removesuffix("/v1")

    async def aclose(self) -> None:
        """Closes all connections; requests in flight are cancelled."""
        await self._connections.aclose()

    async def get(self, address: str, timeout_s: float) -> Reply:
        """Returns the reply to a GET, which bypasses the request limit."""
        return await self._send(self._connections.build_request("GET", address), timeout_s)

    async def post(self, address: str, body: object, timeout_s: float) -> Reply:
        """Returns the reply to a POST, which bypasses the request limit."""
        return await self._send(self._connections.build_request("POST", address, body), timeout_s)

    async def post_limited(
        self, address: str, body: object, timeout_s: float, tokens: int
    ) -> Reply:
        """Returns the reply to a POST, which waits until the limiter admits it.

        `tokens` is the maximum number of tokens that the request may sample. The time limit starts
        when the request is sent. Raises `TRANSIENT_ERRORS`.
        """
        request = self._connections.build_request("POST", address, body)
        self.outstanding_tokens += tokens
        try:
            async with self.limiter:
                reductions = self.limiter.reductions
                try:
                    reply = await self._send(request, timeout_s)
                except TIMEOUT_ERRORS:
                    if self.limiter.on_overload(reductions):
                        LOG.warning(
                            "%s gave no answer within %.0f s; from now on it gets at most %d "
                            "requests at once (raise model.timeout_s for a slow server)",
                            self.url,
                            timeout_s,
                            self.limiter.limit,
                        )
                    raise
                if reply.status in _OVERLOAD_STATUSES:
                    self.limiter.on_overload(reductions)
                elif reply.status < 300:
                    self.limiter.on_success()
                return reply
        finally:
            self.outstanding_tokens -= tokens

    async def _send(self, request: HttpRequest, timeout_s: float) -> Reply:
        async with asyncio.timeout(timeout_s):
            response = await self._connections.send(request, _MAX_REPLY_BYTES)
        if response.truncated:
            raise ModelRejectedError(
                f"{self.url} sent more than {_MAX_REPLY_BYTES >> 20} MiB for one request; "
                "check that it is a model server."
            )
        pause_s = retry_after_s(response.retry_after)
        return Reply(response.status, response.body, pause_s)


class Replicas:
    """The servers of one model; chooses a server for each request.

    A tree's requests go to its home server unless that server has clearly more than its fair share
    of the load. Rendezvous hashing (Thaler and Ravishankar 1998) determines the home: it does not
    depend on earlier requests, and few trees move when a server joins or leaves. The bound on the
    load is consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam,
    arXiv:1608.01350). A failed server gets no requests and is probed with growing pauses until it
    answers. If all servers have failed, all are used.
    """

    def __init__(
        self, urls: Iterable[str], key: str | None, concurrency: int, *, affinity: bool = True
    ) -> None:
        self.all = [Replica(url, key, concurrency) for url in urls]
        self.rerouted = 0
        """Number of requests sent to another server because the tree's home was too busy."""
        self._affinity = affinity
        self._probes: dict[Replica, asyncio.Task[None]] = {}
        self.serves_model: Callable[[Reply], bool] = lambda reply: reply.status < 300
        """Whether the reply to a probe, a list of models, comes from a server of this model."""

    async def aclose(self) -> None:
        """Cancels the probes and closes all connections."""
        for probe in self._probes.values():
            probe.cancel()
        await asyncio.gather(*self._probes.values(), return_exceptions=True)
        for replica in self.all:
            await replica.aclose()

    def select(self, tree: str, tokens: int, exclude: Sequence[Replica] = ()) -> Replica:
        """Returns the server for a request that may sample up to `tokens` tokens.

        `tree` is the request's affinity key; "" for none. Servers in `exclude`, which just failed
        this request, are chosen only if there is no other.
        """
        if len(self.all) == 1:
            return self.all[0]
        self._start_probes()
        candidates = [r for r in self.all if not r.probe_at] or self.all
        candidates = [r for r in candidates if r not in exclude] or candidates
        if not self._affinity or not tree:
            return min(candidates, key=lambda r: r.outstanding_tokens)
        total = sum(r.outstanding_tokens for r in candidates) + tokens
        bound = max((1 + LOAD_TOLERANCE) * (total / len(candidates)), 8 * tokens)
        ranked = sorted(candidates, key=lambda r: _rendezvous_hash(tree, r.url), reverse=True)
        chosen = next((r for r in ranked if r.outstanding_tokens + tokens <= bound), ranked[0])
        self.rerouted += chosen is not ranked[0]
        return chosen

    def mark_failed(self, replica: Replica) -> None:
        """Takes a server out of use until a probe succeeds."""
        pause_s = min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 2.0**replica.consecutive_failures)
        replica.consecutive_failures = min(replica.consecutive_failures + 1, 16)
        replica.probe_at = time.monotonic() + pause_s

    def mark_healthy(self, replica: Replica) -> None:
        """Puts a server back into use after a successful request."""
        replica.consecutive_failures, replica.probe_at = 0, 0.0

    def _start_probes(self) -> None:
        now = time.monotonic()
        for replica in self.all:
            if 0.0 < replica.probe_at <= now and replica not in self._probes:
                self._probes[replica] = asyncio.create_task(self._probe(replica))

    async def _probe(self, replica: Replica) -> None:
        """Puts a failed server back into use if it lists the model."""
        healthy = False
        try:
            with suppress(*TRANSIENT_ERRORS, ModelRejectedError):
                reply = await replica.get(f"{replica.url}/models", _PROBE_TIMEOUT_S)
                healthy = self.serves_model(reply)
            if healthy:
                # Failures stay counted until a request succeeds: a probe is not yet proof.
                replica.probe_at = 0.0
            else:
                self.mark_failed(replica)
        finally:
            del self._probes[replica]


def _rendezvous_hash(tree: str, url: str) -> bytes:
    """Weight of a server for a tree; the server with the highest weight is the tree's home."""
    return blake2b(f"{tree}\n{url}".encode("utf-8", "replace"), digest_size=8).digest()
