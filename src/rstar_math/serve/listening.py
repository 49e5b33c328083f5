"""Listening: the address, the signals and the end."""

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import uvicorn

from rstar_math.config import Config
from rstar_math.errors import InputError
from rstar_math.serve.api import Limits, build
from rstar_math.serve.connections import sweep
from rstar_math.serve.door import Rules
from rstar_math.serve.keys import check_open
from rstar_math.serve.logs import LOG, set_up
from rstar_math.serve.orders import Terms
from rstar_math.solver import Solver

SPARE = 256
"""Connections besides two for each request that may be searched for or wait."""
DRAIN_S = 15
"""Longest time in which requests are finished once the server is told to end."""


@dataclass(frozen=True, slots=True)
class Options:
    """How the server is run."""

    host: str = "127.0.0.1"
    port: int = 8420
    """0 for any that is free."""
    terms: Terms = field(default_factory=Terms)
    limits: Limits = field(default_factory=Limits)
    rules: Rules = field(default_factory=Rules)
    json_logs: bool = False


async def listen(config: Config, options: Options) -> None:
    """Serve until SIGTERM or Ctrl-C: then searches under way are ended, and answered with the best
    so far. Raises `RstarError` where it cannot begin."""
    check_open(options.host, options.rules.keys)
    listener = bound(options.host, options.port)
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
    sweeping = asyncio.create_task(sweep(server))
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


def bound(host: str, port: int) -> socket.socket:
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


def url_of(listener: socket.socket) -> str:
    """The address for clients."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def _ended(number: int, frame: object) -> None:
    """Do nothing: the server has ended."""
