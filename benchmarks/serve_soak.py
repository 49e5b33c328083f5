"""Sends thousands of requests from clients that read slowly, disconnect or vanish.

    python benchmarks/serve_soak.py [--requests 5000] [--clients 64] [--json]

`rstar serve` runs with the real sandbox and a scripted model of 500 tokens per second. A fifth of
the requests are whole answers, a fifth are streams read to the end, a fifth are whole answers whose
client vanishes at a random moment, and a fifth are streams whose client vanishes. The rest are
streams that are read slowly or never, and requests of which only a part is sent. Half of the
searches use three chains, half use trees.

The last line with --json is one object: `lost` (awaited answers that are missing or wrong);
`searching`, `waiting`, `in_flight` (without the request itself) and `tasks_left` at the end;
`descriptors_left`; `memory_growth_mb` (after the first fifth); `model_requests`, of which
`model_dropped` (aborted by our server because the client had left) and `model_pending` (still open
at the end); `requests_per_s`. Exit code 1 if anything is left, lost or has grown.
"""

import argparse
import asyncio
import json
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from saturation import machine
from serve_world import (
    Client,
    Model,
    Pace,
    Served,
    descriptors,
    memory_mb,
    model,
    question,
    served,
)

KINDS = ("whole", "stream", "left", "left stream", "odd")
ODD = ("slow", "unread", "part")
GROWTH_MB = 20.0
PATH = "/v1/chat/completions"


async def request(port: int, number: int, lost: Counter[str]) -> None:
    """Send one request; its number determines the kind. Errors are counted."""
    kind = KINDS[number % len(KINDS)]
    if kind == "odd":
        kind = ODD[number // len(KINDS) % len(ODD)]
    rng = random.Random(number)
    body = {
        "model": rng.choice(("rstar-sc3", "rstar-mcts2")),
        "messages": [{"role": "user", "content": question(number)}],
        "stream": kind not in ("whole", "left", "part"),
        "rstar": {"candidates": 3},
    }
    client = Client(port)
    try:
        if kind in ("unread", "part"):
            await _mute(port, body, whole=kind == "unread", seconds=rng.uniform(0.0, 0.6))
        elif kind.startswith("left"):
            with suppress(TimeoutError):
                async with asyncio.timeout(rng.uniform(0.0, 0.6)):
                    await client.ask(PATH, body)
        elif not await _read(client, body, slowly=kind == "slow"):
            lost[kind] += 1
    except (OSError, EOFError, ValueError):
        lost[kind] += 1
    finally:
        client.hang_up()


async def _read(client: Client, body: dict[str, object], *, slowly: bool) -> bool:
    """Read an answer to its end; returns whether it is good."""
    status, headers = await client.send(PATH, body)
    text = b""
    async for piece in client.body(headers):
        text += piece
        if slowly:
            await asyncio.sleep(0.05)
    ended = text.endswith(b"[DONE]\n\n") if body["stream"] else b'"finish_reason"' in text
    return status == 200 and ended


async def _mute(port: int, body: dict[str, object], *, whole: bool, seconds: float) -> None:
    """Send a request or a part of one, read nothing, and vanish."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    with sock:
        await loop.sock_connect(sock, ("127.0.0.1", port))
        data = json.dumps(body).encode()
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        ).encode()
        sent = head + data
        await loop.sock_sendall(sock, sent if whole else sent[: len(sent) * 2 // 3])
        await asyncio.sleep(seconds)


async def stretch(port: int, numbers: range, clients: int, lost: Counter[str]) -> None:
    """Send a range of requests with a number of clients."""
    waiting = iter(numbers)

    async def one() -> None:
        for number in waiting:
            await request(port, number, lost)

    await asyncio.gather(*(one() for _ in range(clients)))


def settle(server: Served) -> dict[str, float]:
    """The server's gauges when it is idle, or after 20 s at the latest."""
    end = time.monotonic() + 20
    while True:
        seen = server.metrics()
        idle = not (seen["rstar_searching"] or seen["rstar_waiting"])
        if (idle and seen["rstar_in_flight"] == 1) or time.monotonic() > end:
            return seen
        time.sleep(0.1)


def soak(requests: int, clients: int, at: Model, server: Served) -> dict[str, float]:
    """Run everything and return the results."""
    pid, warm = server.process.pid, requests // 5
    lost: Counter[str] = Counter()
    files, tasks = descriptors(pid), settle(server)["rstar_tasks"]
    asyncio.run(stretch(server.port, range(warm), clients, lost))
    settle(server)
    before_mb = memory_mb(pid)
    begin = time.monotonic()
    asyncio.run(stretch(server.port, range(warm, requests), clients, lost))
    wall_s = time.monotonic() - begin
    seen, counts = settle(server), at.counts()
    for kind, count in lost.items():
        print(f"lost: {count} of the kind {kind}", file=sys.stderr)
    return {
        "requests": requests,
        "lost": lost.total(),
        "searching": seen["rstar_searching"],
        "waiting": seen["rstar_waiting"],
        "in_flight": seen["rstar_in_flight"] - 1,
        "tasks_left": seen["rstar_tasks"] - tasks,
        "connections_kept": at.counts()["connections"],
        "descriptors_left": descriptors(pid) - files - counts["connections"],
        "memory_growth_mb": round(memory_mb(pid) - before_mb, 2),
        "model_requests": counts["requests"],
        "model_dropped": counts["dropped"],
        "model_pending": counts["pending"],
        "requests_per_s": round((requests - warm) / wall_s, 2),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--clients", type=int, default=64)
    options = parser.parse_args(arguments)
    where = machine()
    room = ("--concurrency", str(options.clients), "--trees", "64")
    with model(Pace(0.002, 0.02)) as at, served(at, *room) as server:
        figures = soak(options.requests, options.clients, at, server)
    for name, value in figures.items():
        print(f"{name:20} {value:10.2f}")
    if options.json:
        print(json.dumps(figures | where))
    none = ("lost", "searching", "waiting", "in_flight", "tasks_left", "model_pending")
    left = any(figures[name] > 0 for name in (*none, "descriptors_left"))
    return int(left or figures["memory_growth_mb"] > GROWTH_MB)


if __name__ == "__main__":
    sys.exit(main())
