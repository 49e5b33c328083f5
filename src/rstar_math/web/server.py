"""Socket, uvicorn settings, logging and metrics of the web servers."""

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

IDLE_TIMEOUT_S = 30.0
"""Maximum time between a connection's opening, or the end of its last response, and a complete
request head. A client also has this long to read the end of a response."""
_CHECK_INTERVAL_S = 5.0


async def close_idle_connections(
    server: uvicorn.Server,
    timeout_s: float = IDLE_TIMEOUT_S,
    interval_s: float = _CHECK_INTERVAL_S,
) -> None:
    """Close connections that are idle for `timeout_s`. Runs until cancelled.

    Connections with an active request are never closed.
    """
    idle: dict[Any, tuple[object, float]] = {}
    while True:
        now, previous = monotonic(), idle
        idle = {}
        for connection in list(server.server_state.connections):
            cycle = getattr(connection, "cycle", None)
            is_active = cycle is not None and not cycle.response_complete
            if is_active and not connection.transport.is_closing():
                continue
            last_cycle, since = previous.get(connection, (cycle, now))
            if last_cycle is not cycle:
                since = now
            if now - since >= timeout_s:
                connection.transport.abort()
            else:
                idle[connection] = cycle, since
        await asyncio.sleep(interval_s)


LOG = logging.getLogger("rstar_math.serve")
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})"
)


def configure_logging(*, as_json: bool) -> None:
    """Send the logs of the server and of uvicorn to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if as_json else TextFormatter())
    for name, level in (("rstar_math.serve", logging.INFO), ("uvicorn.error", logging.WARNING)):
        log = logging.getLogger(name)
        log.handlers[:] = [handler]
        log.setLevel(level)
        log.propagate = False


def trace_ids(traceparent: str) -> dict[str, str]:
    """The ids of a W3C `traceparent` header under OpenTelemetry's names; {} if it is invalid."""
    match = _TRACEPARENT.fullmatch(traceparent)
    names = ("trace_id", "span_id", "trace_flags")
    return dict(zip(names, match.groups(), strict=True)) if match else {}


class _JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "severity": record.levelname,
            "body": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class TextFormatter(logging.Formatter):
    """Formats a record as time, message and key=value fields."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        pairs = " ".join(f"{key}={value}" for key, value in fields.items())
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        line = " ".join(sanitize(f"{time} {record.getMessage()} {pairs}").split())
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


disable_created_metrics()  # type: ignore[no-untyped-call]
CONTENT_TYPE = CONTENT_TYPE_LATEST
"""The content type of `Metrics.text`."""
BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper bounds of the histogram's buckets, in seconds."""


class Metrics:
    """Prometheus metrics of one server, counted from its start."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "rstar_requests",
            "Requests by route and status; 499 means that the client disconnected.",
            ("route", "status"),
            registry=registry,
        )
        self.in_flight = Gauge(
            "rstar_in_flight", "Requests without a complete response.", registry=registry
        )
        self.searches = Counter(
            "rstar_searches", "Searches by end reason.", ("ended",), registry=registry
        )
        self.answers = Counter("rstar_answers", "Searches that found an answer.", registry=registry)
        self.tokens = Counter(
            "rstar_tokens", "Tokens by kind: prompt, sampled, scorer.", ("kind",), registry=registry
        )
        self.answer_seconds = Histogram(
            "rstar_answer_seconds",
            "Seconds from the request to the end of the response.",
            buckets=BUCKETS_S,
            registry=registry,
        )
        self._gauges: dict[str, Gauge] = {}

    def text(self, **gauges: float) -> bytes:
        """All metrics in the Prometheus text format. Sets the `gauges` by name first."""
        for name, value in gauges.items():
            if name not in self._gauges:
                description = f"{name.replace('_', ' ').capitalize()}."
                self._gauges[name] = Gauge(f"rstar_{name}", description, registry=self._registry)
            self._gauges[name].set(value)
        return generate_latest(self._registry)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `InputError` if the address is in use or not of this machine."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=1024)
        # Accepted connections inherit TCP_NODELAY; asyncio does not set it for this socket.
        # Without it, the end of a response waits at least 40 ms for the client's ACK.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (OSError, OverflowError) as error:
        raise InputError(
            f"Cannot listen on {host}:{port} ({error}); choose another --port or --host."
        ) from None


def server_config(app: Callable[..., object], max_connections: int = 1024) -> uvicorn.Config:
    """The uvicorn settings. Connections above `max_connections` get status 503.

    The parser is h11: it limits the request head to 64 KiB, httptools does not, and it is not
    slower here.
    """
    return uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        limit_concurrency=max_connections,
        proxy_headers=False,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
    )


def url_of(listener: socket.socket) -> str:
    """The base URL for clients, for example http://127.0.0.1:8420/v1."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


SHUTDOWN_TIMEOUT_S = 15
"""Maximum time for active requests to finish after the signal to stop."""
