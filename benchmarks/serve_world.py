"""The environment of `serve.py` and `serve_soak.py`: a scripted model server, clients, and process
statistics. All are cheap compared with what is measured. Linux only.

The model server writes tokens at a fixed rate, one response per request, and counts the requests
whose clients disconnect. Its texts depend only on the prompt, except for one sample in eight.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rstar_math.seeding import derive

FEWEST, MOST = 20, 60
"""Minimum and maximum tokens of a step, uniformly distributed."""
AGAIN = 100_000
"""Questions at this distance take the same time but have different programs."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The speed of the model."""

    token_s: float = 0.05
    prefill_s: float = 0.05


def question(number: int) -> str:
    """The question with a number."""
    return f"Add {number} and {number + 17}."


def said(body: dict[str, Any]) -> tuple[list[str], int]:
    """The samples of a request and the tokens of the longest one.

    A sample is a line, a program that prints, or the answer.
    """
    asked, _, solution = str(body["prompt"]).rpartition("Question: ")[2].partition("\n")
    a, b = map(int, re.findall(r"\d+", asked)[-2:])
    at, texts, longest = solution.count("<step/>") + 2 * solution.count("<code/>"), [], 0
    for index in range(body["n"]):
        seed = derive(body["seed"], solution, index)
        tokens = FEWEST + derive(a % AGAIN, at, index) % (MOST - FEWEST)
        words, longest = " word" * tokens, max(longest, tokens)
        if at >= 2:
            number = solution.rpartition("<output>\n")[2].partition("\n")[0]
            texts.append(f"So{words} it is \\boxed{{{number}}}.\n<answer")
        elif at == 1:
            texts.append(f"#{words}\nprint(a + {b + (seed % 8 == 0)})\n<code")
        else:
            texts.append(f"#{words}\na = {a}\n<step")
    return texts, longest


class _Model(asyncio.Protocol):
    """One connection of the model server."""

    def __init__(self, pace: Pace, counts: dict[str, int]) -> None:
        self.pace, self.counts = pace, counts
        self.seen = bytearray()
        self.pending: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.counts["connections"] += 1

    def connection_lost(self, error: Exception | None) -> None:
        self.counts["connections"] -= 1
        if self.pending is not None:
            self.pending.cancel()
            self.counts["dropped"] += 1
            self.counts["pending"] -= 1

    def data_received(self, data: bytes) -> None:
        self.seen += data
        head, found, rest = self.seen.partition(b"\r\n\r\n")
        if not found:
            return
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        size = int(length[1]) if length else 0
        if len(rest) < size:
            return
        self.seen = rest[size:]
        if head.startswith(b"GET"):
            self.send({"data": [{"id": "scripted", "object": "model"}]})
            return
        texts, tokens = said(json.loads(rest[:size]))
        self.counts["requests"] += 1
        self.counts["pending"] += 1
        usage = {"prompt_tokens": 100, "completion_tokens": tokens * len(texts)}
        choices = [
            {"index": i, "text": text, "finish_reason": "stop"} for i, text in enumerate(texts)
        ]
        body = {"object": "text_completion", "choices": choices, "usage": usage}
        delay_s = self.pace.prefill_s + tokens * self.pace.token_s
        self.pending = asyncio.get_running_loop().call_later(delay_s, self.send, body)

    def send(self, body: object) -> None:
        """Send one response."""
        if self.pending is not None:
            self.counts["pending"] -= 1
            self.pending = None
        data = json.dumps(body).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
        self.transport.write(f"{head}\r\n\r\n".encode() + data)


def _model(pace: Pace, door: Connection) -> None:
    """Serve until stopped; report on request."""
    counts = {"requests": 0, "dropped": 0, "pending": 0, "connections": 0}

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: _Model(pace, counts), "127.0.0.1", 0, backlog=4096
        )
        door.send(server.sockets[0].getsockname()[1])
        told = asyncio.Event()

        def read() -> None:
            if door.recv() == "end":
                told.set()
            else:
                door.send(dict(counts))

        loop.add_reader(door.fileno(), read)
        await told.wait()

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(serve())


@dataclass(frozen=True, slots=True)
class Model:
    """The model server, created by `model`."""

    port: int
    pid: int
    door: Connection

    def counts(self) -> dict[str, int]:
        """Numbers of requests and of open `connections`.

        Of the requests, some are `dropped` by their clients and some `pending`.
        """
        self.door.send("counts")
        found: dict[str, int] = self.door.recv()
        return found


@contextmanager
def model(pace: Pace) -> Iterator[Model]:
    """Run a model server in its own process during a `with` block."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_model, args=(pace, theirs), daemon=True)
    process.start()
    try:
        assert process.pid is not None
        yield Model(ours.recv(), process.pid, ours)
    finally:
        ours.send("end")
        process.join()


@dataclass(frozen=True, slots=True)
class Served:
    """`rstar serve`, created by `served`."""

    port: int
    process: "subprocess.Popen[bytes]"

    def metrics(self) -> dict[str, float]:
        """The values of /metrics by name with labels."""
        from urllib.request import urlopen

        with urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as reply:
            lines = reply.read().decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}


@contextmanager
def served(at: Model, *more: str) -> Iterator[Served]:
    """Run the command with its log in a file, during a `with` block."""
    command = [sys.executable, "-m", "rstar_math.cli", "serve", "--json-logs", "--port", "0"]
    command += ["--model", f"http://127.0.0.1:{at.port}/v1", "--set", "model.concurrency=4096"]
    command += ["--set", "policy.mode=completion"]  # the scripted model knows no chat
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        process = subprocess.Popen([*command, *more], stderr=log)
        try:
            end = time.monotonic() + 60
            while not (found := re.search(r"127\.0\.0\.1:(\d+)/v1\"", Path(log.name).read_text())):
                if time.monotonic() > end or process.poll() is not None:
                    raise RuntimeError(Path(log.name).read_text())
                time.sleep(0.05)
            yield Served(int(found[1]), process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


class Client:
    """One persistent connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def send(self, path: str, body: object) -> tuple[int, dict[bytes, bytes]]:
        """Send a request; returns the status and the headers of the response."""
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        assert self.reader is not None
        self.writer.write(head.encode() + data)
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        pairs = (line.partition(b": ") for line in lines if line)
        return int(first.split()[1]), {name.lower(): value for name, _, value in pairs}

    async def body(self, headers: dict[bytes, bytes]) -> AsyncIterator[bytes]:
        """The body of the response, in pieces."""
        assert self.reader is not None
        if b"content-length" in headers:
            yield await self.reader.readexactly(int(headers[b"content-length"]))
            return
        while size := int(await self.reader.readline(), 16):
            yield (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readline()

    async def ask(self, path: str, body: object) -> tuple[int, bytes]:
        """The status and the whole body of a response."""
        status, headers = await self.send(path, body)
        return status, b"".join([piece async for piece in self.body(headers)])

    def hang_up(self) -> None:
        """Reset the connection, as if the client's machine were gone."""
        if self.writer is not None:
            self.writer.transport.abort()
        self.reader = self.writer = None


def cpu_s(pid: int) -> float:
    """Processor time of a process, without its children."""
    return sum(_times(pid)[:2]) / os.sysconf("SC_CLK_TCK")


def below_cpu_s(pid: int) -> float:
    """Processor time of the processes that a process started, including finished ones."""
    total = sum(_times(pid)[2:]) + sum(sum(_times(child)) for child in descendants(pid))
    return total / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and those that they started."""
    found = _children(pid)
    for child in found:  # grows
        found += _children(child)
    return found


def memory_mb(pid: int) -> float:
    """Private resident memory of the process."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+)", text)
    return int(found[1]) / 1024 if found else 0.0


def descriptors(pid: int) -> int:
    """Number of open files and connections."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def quantile(values: Sequence[float], share: float) -> float:
    """The quantile of the values at a share."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def _times(pid: int) -> list[int]:
    """User and system time of a process, then of its ended children, in ticks."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return [0, 0, 0, 0]
    return [int(field) for field in fields[11:15]]


def _children(pid: int) -> list[int]:
    """The processes started by a process, from any thread; [] if it has ended."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
        except OSError:
            continue
    return found
