"""What all web servers share: the socket, uvicorn's settings, logs and metrics."""

import asyncio
import json
import logging
import re
import socket
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import uvicorn
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

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


disable_created_metrics()  # type: ignore[no-untyped-call]
CONTENT_TYPE = CONTENT_TYPE_LATEST
"""Of what `Metrics.text` gives."""
BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper ends of the histogram's buckets, in seconds."""


class Metrics:
    """What a server counts since its start, for Prometheus."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "rstar_requests",
            "Requests by route and status; 499 for those whose client left.",
            ("route", "status"),
            registry=registry,
        )
        self.in_flight = Gauge("rstar_in_flight", "Unanswered requests.", registry=registry)
        self.searches = Counter(
            "rstar_searches", "Searches by what ended them.", ("ended",), registry=registry
        )
        self.answers = Counter("rstar_answers", "Searches with an answer.", registry=registry)
        self.tokens = Counter(
            "rstar_tokens", "Tokens: prompt, sampled, scorer.", ("kind",), registry=registry
        )
        self.answer_seconds = Histogram(
            "rstar_answer_seconds",
            "Seconds from request to the end of the answer.",
            buckets=BUCKETS_S,
            registry=registry,
        )
        self._gauges: dict[str, Gauge] = {}

    def text(self, **gauges: float) -> bytes:
        """All of them, and `gauges` by name, in the text format of Prometheus."""
        for name, value in gauges.items():
            if name not in self._gauges:
                words = f"{name.replace('_', ' ').capitalize()}."
                self._gauges[name] = Gauge(f"rstar_{name}", words, registry=self._registry)
            self._gauges[name].set(value)
        return generate_latest(self._registry)


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
