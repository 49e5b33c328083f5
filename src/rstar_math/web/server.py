"""Counts of what the server did, in Prometheus' text format, version 0.0.4."""

import asyncio
import json
import logging
import re
import socket
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import uvicorn

from rstar_math.errors import InputError
from rstar_math.text import sanitize

HEAD_S = 30.0
"""Longest time that the head of a request may take, from the opening of a connection or the end of
the answer before; and that the end of an answer may wait to be read."""
_LOOK_S = 5.0


async def close_idle_connections(
    server: uvicorn.Server, head_s: float = HEAD_S, look_s: float = _LOOK_S
) -> None:
    """Break such connections, until cancelled. Requests under way are never touched."""
    idle: dict[Any, tuple[object, float]] = {}
    while True:
        now, before = monotonic(), idle
        idle = {}
        for connection in list(server.server_state.connections):
            cycle = getattr(connection, "cycle", None)
            asked = cycle is not None and not cycle.response_complete
            if asked and not connection.transport.is_closing():
                continue
            last, since = before.get(connection, (cycle, now))
            if last is not cycle:
                since = now
            if now - since >= head_s:
                connection.transport.abort()
            else:
                idle[connection] = cycle, since
        await asyncio.sleep(look_s)


LOG = logging.getLogger("rstar_math.serve")
_TRACE = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})"
)


def set_up(*, as_json: bool) -> None:
    """Send the server's and uvicorn's log to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if as_json else _Plain())
    for name, level in (("rstar_math.serve", logging.INFO), ("uvicorn.error", logging.WARNING)):
        log = logging.getLogger(name)
        log.handlers[:] = [handler]
        log.setLevel(level)
        log.propagate = False


def trace_of(traceparent: str) -> dict[str, str]:
    """The ids of a W3C `traceparent` header under OpenTelemetry's names; {} where it has none
    that count."""
    match = _TRACE.fullmatch(traceparent)
    names = ("trace_id", "span_id", "trace_flags")
    return dict(zip(names, match.groups(), strict=True)) if match else {}


class _Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "severity": record.levelname,
            "body": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class _Plain(logging.Formatter):
    """Time, words and facts."""

    def format(self, record: logging.LogRecord) -> str:
        facts = getattr(record, "facts", {})
        shown = " ".join(f"{key}={sanitize(str(value))}" for key, value in facts.items())
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        line = f"{time} {sanitize(record.getMessage())} {shown}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper ends of the histogram's buckets, in seconds."""


class Metrics:
    """Counters that only grow, since the server's start."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, int], int] = defaultdict(int)
        """Requests by route and status; 499 for those whose client left."""
        self.in_flight = 0
        """Requests that are not answered yet."""
        self.searches: dict[str, int] = defaultdict(int)
        """Searches by what ended them."""
        self.answered = 0
        """Searches that came to an answer."""
        self.tokens: dict[str, int] = defaultdict(int)
        """Tokens by kind: prompt, sampled, scorer."""
        self._buckets = [0] * len(BUCKETS_S)
        self._seconds = 0.0
        self._count = 0

    def observe(self, seconds: float) -> None:
        """Count how long a request for an answer took."""
        self._seconds += seconds
        self._count += 1
        for at, most in enumerate(BUCKETS_S):
            self._buckets[at] += seconds <= most

    def text(self, **gauges: float) -> str:
        """All of them, and `gauges` by name, for a scrape."""
        return "\n".join([*self._lines(gauges), ""])

    def _lines(self, gauges: dict[str, float]) -> Iterator[str]:
        yield from _head("rstar_requests_total", "counter", "Requests by route and status.")
        for (route, status), count in sorted(self.requests.items()):
            yield f'rstar_requests_total{{route="{route}",status="{status}"}} {count}'
        yield from _head("rstar_searches_total", "counter", "Searches by what ended them.")
        for ended, count in sorted(self.searches.items()):
            yield f'rstar_searches_total{{ended="{ended}"}} {count}'
        yield from _head("rstar_answers_total", "counter", "Searches that came to an answer.")
        yield f"rstar_answers_total {self.answered}"
        yield from _head("rstar_tokens_total", "counter", "Tokens of the model by kind.")
        for kind, count in sorted(self.tokens.items()):
            yield f'rstar_tokens_total{{kind="{kind}"}} {count}'
        for name, value in {"in_flight": self.in_flight, **gauges}.items():
            yield from _head(f"rstar_{name}", "gauge", name.replace("_", " ").capitalize() + ".")
            yield f"rstar_{name} {value:g}"
        name = "rstar_answer_seconds"
        yield from _head(name, "histogram", "Seconds from request to the end of the answer.")
        for most, count in zip(BUCKETS_S, self._buckets, strict=True):
            yield f'{name}_bucket{{le="{most:g}"}} {count}'
        yield f'{name}_bucket{{le="+Inf"}} {self._count}'
        yield f"{name}_sum {self._seconds:.6f}"
        yield f"{name}_count {self._count}"


def _head(name: str, kind: str, words: str) -> Iterator[str]:
    """What goes before a metric's values."""
    yield f"# HELP {name} {words}"
    yield f"# TYPE {name} {kind}"


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address. Raises `InputError` where it is taken or not of this machine."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=1024)
        # Taken on by the connections; asyncio does not see that they are TCP. Without it the end of
        # an answer waits for the client's word that the beginning came: 40 ms and more.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (OSError, OverflowError) as error:
        raise InputError(
            f"{host}:{port} cannot be listened at ({error}); give another --port or --host."
        ) from None


def server_config(app: Callable[..., object], most: int = 1024) -> uvicorn.Config:
    """How uvicorn is run, with at most so many connections; others get 503. By h11, which bounds
    the head of a request (64 KiB) and is no slower here; httptools does not."""
    return uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        limit_concurrency=most,
        proxy_headers=False,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=DRAIN_S,
    )


def url_of(listener: socket.socket) -> str:
    """The address for clients."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


DRAIN_S = 15
"""Longest time in which requests are finished once the server is told to end."""
