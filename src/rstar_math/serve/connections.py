"""Connections on which nothing comes: those that never send a whole head, say a byte a minute, and
those that do not take what is sent. uvicorn keeps them for as long as the other side likes."""

import asyncio
from time import monotonic
from typing import Any

import uvicorn

HEAD_S = 30.0
"""Longest time that the head of a request may take, from the opening of a connection or the end of
the answer before; and that the end of an answer may wait to be read."""
_LOOK_S = 5.0


async def sweep(server: uvicorn.Server, head_s: float = HEAD_S, look_s: float = _LOOK_S) -> None:
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
