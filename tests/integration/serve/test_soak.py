"""Two hundred requests by clients that read slowly, break off and vanish; benchmarks/serve_soak.py
does the same with thousands, before the command and a model server."""

import asyncio
import json
import os
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from rstar_math.serve.app import Capacity
from rstar_math.types import Question, Step
from tests.integration.serve.live import Adder, Live, live

REQUESTS, CLIENTS = 200, 25


class Counting:
    """The adder, with what is asked of it and not yet answered, and what was broken off."""

    def __init__(self) -> None:
        self.adder = Adder(0.02)
        self.pending = self.broken = 0

    async def propose(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[Step]:
        """See `protocols.Policy`."""
        self.pending += 1
        try:
            return await self.adder.propose(question, prefix, k, seed=seed)
        except asyncio.CancelledError:
            self.broken += 1
            raise
        finally:
            self.pending -= 1


async def ask(port: int, number: int) -> bool:
    """One request; whether its client got all that it waited for."""
    rng = random.Random(number)
    kind = ("whole", "stream", "left", "left stream", "slow", "part")[number % 6]
    stream = kind in ("stream", "left stream", "slow")
    turn = {"role": "user", "content": f"Add {number} and 5."}
    model = rng.choice(("rstar-sc3", "rstar-mcts4"))
    body = json.dumps({"model": model, "messages": [turn], "stream": stream}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        whole = head.encode() + body
        writer.write(whole[:-9] if kind == "part" else whole)
        if kind in ("left", "left stream", "part"):
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(), rng.uniform(0.0, 0.15))
            return True
        text = b""
        while piece := await reader.read(64 if kind == "slow" else 65536):
            text += piece
            await asyncio.sleep(0.002 if kind == "slow" else 0)
        return (b"[DONE]" if stream else b'"finish_reason"') in text
    finally:
        writer.transport.abort()


async def crowd(port: int, numbers: range) -> list[bool]:
    """All requests, some at once."""
    seats = asyncio.Semaphore(CLIENTS)

    async def one(number: int) -> bool:
        async with seats:
            return await ask(port, number)

    return await asyncio.gather(*map(one, numbers))


def test_clients_that_vanish_leave_nothing_behind() -> None:
    policy: Any = Counting()
    with live(policy, capacity=Capacity(concurrency=8, trees=4)) as server:
        port = int(server.root.rpartition(":")[2])
        assert all(asyncio.run(crowd(port, range(12))))
        before = _left(server)
        assert all(asyncio.run(crowd(port, range(12, REQUESTS)))), "an answer was lost"
        after = _left(server)
        assert policy.pending == 0
        assert policy.broken > 0, "nobody left while the model was asked"
        assert after["tasks"] <= before["tasks"]
        assert after["files"] <= before["files"] + 2


def _left(server: Live) -> dict[str, float]:
    """What is open once nothing goes on any more."""
    for gauge, value in (("searching", 0), ("waiting", 0), ("in_flight", 1)):
        server.until(f"rstar_{gauge}", value, 20)
    tasks = server.metric("rstar_tasks")
    assert tasks is not None
    return {"tasks": tasks, "files": len(os.listdir("/proc/self/fd"))}
