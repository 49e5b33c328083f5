"""Runs the server: address, signals, shutdown."""

import asyncio
import gc
import signal
import socket
import sys
from dataclasses import dataclass, field

import uvicorn

from rstar_math.config.sections import Config
from rstar_math.serve.app import Limits, build
from rstar_math.serve.requests import ServerLimits
from rstar_math.solver.solver import Solver
from rstar_math.web.access import AccessPolicy, check_open
from rstar_math.web.server import LOG, bind, close_idle_connections, server_config, set_up, url_of

SPARE = 256
"""Connections besides two for each request that may be searched for or wait."""


@dataclass(frozen=True, slots=True)
class Options:
    """How the server is run."""

    host: str = "127.0.0.1"
    port: int = 8420
    """0 for any that is free."""
    terms: ServerLimits = field(default_factory=ServerLimits)
    limits: Limits = field(default_factory=Limits)
    rules: AccessPolicy = field(default_factory=AccessPolicy)
    json_logs: bool = False


async def serve(config: Config, options: Options) -> None:
    """Serve until SIGTERM or Ctrl-C: then searches under way are ended, and answered with the best
    so far. Raises `RstarError` where it cannot begin."""
    check_open(options.host, options.rules.keys)
    listener = bind(options.host, options.port)
    with listener:
        set_up(as_json=options.json_logs)
        async with Solver(config) as solver:
            await _serve(solver, options, listener)


async def _serve(solver: Solver, options: Options, listener: socket.socket) -> None:
    """Serve until told to end."""
    server: uvicorn.Server | None = None

    def ending() -> bool:
        return server is not None and server.should_exit

    app = build(
        solver, terms=options.terms, limits=options.limits, rules=options.rules, ending=ending
    )
    most = 2 * (options.limits.concurrency + options.limits.queue) + SPARE
    server = uvicorn.Server(server_config(app, most))
    _collect_seldom()
    address = url_of(listener)
    LOG.info("listening", extra={"facts": {"url": address, "model": solver.model_name or "own"}})
    if not options.json_logs:
        print(
            f'Point any OpenAI client at {address} with the model "rstar"; Ctrl-C ends it.',
            file=sys.stderr,
        )
    # uvicorn raises the signal that ended it once more when it is done.
    before = signal.signal(signal.SIGTERM, _ended)
    sweeping = asyncio.create_task(close_idle_connections(server))
    try:
        await server.serve(sockets=[listener])
        await asyncio.sleep(0)  # Ctrl-C is delivered here, before the Solver is closed.
    finally:
        sweeping.cancel()
        signal.signal(signal.SIGTERM, before)


def _collect_seldom() -> None:
    """Let garbage be collected after thousands of chats instead of several times a second: a chat
    leaves some ten objects in cycles, and each look through the 200 searches under way stops them
    all for 30 to 90 ms. What is loaded by now stays, and is not looked through again at all."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 2, 2)


def _ended(number: int, frame: object) -> None:
    """Do nothing: the server has ended."""
