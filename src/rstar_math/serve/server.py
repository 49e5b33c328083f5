"""Runs the server: address, signals, shutdown."""

import asyncio
import gc
import signal
import socket
import sys
from dataclasses import dataclass, field

import uvicorn

from rstar_math.config.sections import Config
from rstar_math.serve.app import Capacity, build
from rstar_math.serve.requests import ServerLimits
from rstar_math.solver.solver import Solver
from rstar_math.web.access import AccessPolicy, require_keys
from rstar_math.web.server import (
    LOG,
    bind,
    close_idle_connections,
    configure_logging,
    server_config,
    url_of,
)

SPARE_CONNECTIONS = 256
"""Connections above two per running or waiting request."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Address, limits and access rules of a server."""

    host: str = "127.0.0.1"
    port: int = 8420
    """0 selects any free port."""
    limits: ServerLimits = field(default_factory=ServerLimits)
    capacity: Capacity = field(default_factory=Capacity)
    access: AccessPolicy = field(default_factory=AccessPolicy)
    json_logs: bool = False


async def serve(config: Config, options: ServerOptions) -> None:
    """Serve until SIGTERM or Ctrl-C.

    At shutdown, active searches end and their requests get the best answer so far. Raises
    `RstarError` if the server cannot start.
    """
    require_keys(options.host, options.access.keys)
    listener = bind(options.host, options.port)
    with listener:
        configure_logging(as_json=options.json_logs)
        async with Solver(config) as solver:
            await _run(solver, options, listener)


async def _run(solver: Solver, options: ServerOptions, listener: socket.socket) -> None:
    """Run uvicorn until a signal stops it."""
    server: uvicorn.Server | None = None

    def is_shutting_down() -> bool:
        return server is not None and server.should_exit

    capacity = options.capacity
    app = build(
        solver,
        limits=options.limits,
        capacity=capacity,
        access=options.access,
        is_shutting_down=is_shutting_down,
    )
    max_connections = 2 * (capacity.concurrency + capacity.queue) + SPARE_CONNECTIONS
    server = uvicorn.Server(server_config(app, max_connections))
    _reduce_garbage_collection()
    url = url_of(listener)
    LOG.info("listening", extra={"fields": {"url": url, "model": solver.model_name or "own"}})
    if not options.json_logs:
        print(
            f'Point any OpenAI client at {url} with the model "rstar"; press Ctrl-C to stop.',
            file=sys.stderr,
        )
    # When uvicorn stops, it raises the signal that stopped it a second time.
    previous = signal.signal(signal.SIGTERM, _ignore_signal)
    closing_idle = asyncio.create_task(close_idle_connections(server))
    try:
        await server.serve(sockets=[listener])
        await asyncio.sleep(0)  # Ctrl-C is delivered here, before the Solver is closed.
    finally:
        closing_idle.cancel()
        signal.signal(signal.SIGTERM, previous)


def _reduce_garbage_collection() -> None:
    """Run the garbage collector once per thousands of requests, not several times a second.

    A request leaves about ten objects in cycles. One collection with 200 active searches stops all
    of them for 30 to 90 ms. Objects that exist now are excluded from collection.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 2, 2)


def _ignore_signal(number: int, frame: object) -> None:
    """Do nothing: the server has stopped already."""
