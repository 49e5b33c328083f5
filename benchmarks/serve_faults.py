"""`rstar serve` for half an hour with a faulty model server and hostile programs.

    python benchmarks/serve_faults.py [--minutes 30] [--clients 50] [--faults 0.1] [--json]

The model server answers one request in ten with a fault: an error status, a delay, a connection
that is cut in the middle of the answer, a page of HTML, JSON without choices, an error with status
200, or a null text. One program in five is hostile: it loops, fills the memory, forks, kills, exits
early, prints without end, reads secrets, opens sockets or crashes the interpreter. 50 clients ask
one question after another, plain and streamed; the searches are chains and trees.

The last line with --json is one object:

    requests, answered, refused   all requests; with an answer; with an error in the API's format
    lost                          neither; must be 0
    wrong                         answers that are not the sum that was asked
    model_requests, faults        of the model server
    hostile                       programs that the model server wrote
    memory_start_mb, memory_end_mb, memory_growth   private memory of our server and all its
                                  processes after the warm-up and at the end (medians over a tenth
                                  of the time), and the growth as a share
    memory_by_tenth_mb            medians of all tenths: a filling cache flattens out, a leak does
                                  not
    processes_left, descriptors_left, files_left    when idle, compared with the start
    sockets_left                  the part of the descriptors that are connections
    survivors                     processes alive after the server has ended
"""

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from saturation import machine
from serve_world import Model, Served, descendants, descriptors, memory_mb, question, served

from rstar_math.seeding import derive

HOSTILE = (
    "while True:\n    pass",
    "x = []\nwhile True:\n    x.append(bytearray(10_000_000))",
    "import os\nwhile True:\n    os.fork()",
    "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "import os\nos._exit(0)",
    "while True:\n    print('word ' * 1000)",
    "print(open('/etc/passwd').read())",
    "import socket\nsocket.create_connection(('127.0.0.1', 22))",
    "import ctypes\nctypes.string_at(0)",
    "import threading\nwhile True:\n    threading.Thread(target=lambda: None).start()",
    "def f():\n    return f()\nf()",
    "import os\nos.kill(-1, 9)",
    "raise SystemExit(0)",
    "import sys\nsys.stdout.close()",
    "open('/tmp/left-over', 'w').write('x' * 10**9)",
    "import time\ntime.sleep(10**6)",
)
"""Programs that a model must not get away with."""
FAULTS = ("status", "delay", "cut", "page", "no choices", "error", "null")
STATUSES = (408, 429, 500, 502, 503, 529)
PATH = "/v1/chat/completions"


@dataclass(slots=True)
class Upstream:
    """The faulty model server."""

    share: float
    counts: Counter[str] = field(default_factory=Counter)
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    async def models(self, request: web.Request) -> web.Response:
        """The list of models."""
        return web.json_response({"data": [{"id": "scripted", "object": "model"}]})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """Answer, or inject a fault."""
        body = await request.json()
        self.counts["model_requests"] += 1
        await asyncio.sleep(self.rng.uniform(0.02, 0.2))
        texts = [self.text(body, index) for index in range(body.get("n", 1))]
        choices: list[dict[str, Any]] = [
            {"index": i, "text": text, "finish_reason": "stop"} for i, text in enumerate(texts)
        ]
        answer = {"choices": choices, "usage": {"prompt_tokens": 100, "completion_tokens": 40}}
        if self.rng.random() >= self.share:
            return web.json_response(answer)
        self.counts["faults"] += 1
        fault = self.rng.choice(FAULTS)
        if fault == "status":
            status = self.rng.choice(STATUSES)
            headers = {"Retry-After": "1"} if status in (429, 503) else {}
            text = json.dumps({"error": {"message": "injected"}})
            return web.Response(text=text, status=status, headers=headers)
        if fault == "delay":
            await asyncio.sleep(self.rng.uniform(1.0, 5.0))
            return web.json_response(answer)
        if fault == "cut":
            return await self.cut(request, json.dumps(answer).encode())
        if fault == "page":
            return web.Response(text="<html>It works!</html>", content_type="text/html")
        if fault == "error":
            return web.json_response({"error": {"message": "injected", "type": "server_error"}})
        if fault == "null":
            choices[0]["text"] = None
            return web.json_response(answer)
        return web.json_response({"object": "text_completion"})

    async def cut(self, request: web.Request, body: bytes) -> web.StreamResponse:
        """Send the first half of an answer and close the connection."""
        response = web.StreamResponse(headers={"Content-Length": str(len(body))})
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        assert request.transport is not None
        request.transport.close()
        return response

    def text(self, body: dict[str, Any], index: int) -> str:
        """One sample: a program that prints the sum, a hostile one, or the answer."""
        asked, _, solution = str(body["prompt"]).rpartition("Question: ")[2].partition("\n")
        a, b = map(int, re.findall(r"\d+", asked)[-2:])
        if "<code/>" in solution:
            number = solution.rpartition("<output>\n")[2].partition("\n")[0]
            return f"So it is \\boxed{{{number}}}.\n<answer"
        seed = derive(body.get("seed", 0), asked, index)
        if seed % 5 == 0:
            self.counts["hostile"] += 1
            return f"# Add.\n{HOSTILE[seed // 5 % len(HOSTILE)]}\n<code"
        return f"# Add, way {seed % 7}.\nprint({a} + {b})\n<code"


def _run_upstream(share: float, pipe: Connection) -> None:
    """Serve until stopped; report counts on request."""
    upstream = Upstream(share)

    async def serve() -> None:
        app = web.Application()
        app.router.add_get("/v1/models", upstream.models)
        app.router.add_post("/v1/completions", upstream.complete)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
        await site.start()
        pipe.send(runner.addresses[0][1])
        while await asyncio.to_thread(pipe.recv) != "end":
            pipe.send(dict(upstream.counts))
        await runner.cleanup()

    asyncio.run(serve())


@contextmanager
def faulty_model(share: float) -> Iterator[Model]:
    """Run the faulty model server in its own process during a `with` block."""
    ours, theirs = (context := get_context("spawn")).Pipe()
    process = context.Process(target=_run_upstream, args=(share, theirs), daemon=True)
    process.start()
    try:
        assert process.pid is not None
        yield Model(ours.recv(), process.pid, ours)
    finally:
        ours.send("end")
        process.join()


@dataclass(slots=True)
class Load:
    """What the clients and the observer saw."""

    counts: Counter[str] = field(default_factory=Counter)
    memory: list[float] = field(default_factory=list)
    """Private memory of the server and its processes in MB, once a second."""


async def ask(session: aiohttp.ClientSession, port: int, number: int, load: Load) -> None:
    """Ask one question and count how it ended."""
    rng = random.Random(number)
    stream = rng.random() < 0.5
    body = {
        "model": rng.choice(("rstar-greedy", "rstar-sc3", "rstar-mcts2")),
        "messages": [{"role": "user", "content": question(number)}],
        "stream": stream,
        "rstar": {"candidates": 3},
    }
    load.counts["requests"] += 1
    try:
        async with session.post(f"http://127.0.0.1:{port}{PATH}", json=body) as response:
            text = (await response.read()).decode()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        load.counts["lost"] += 1
        print(f"lost: {error!r}", file=sys.stderr)
        return
    end = ending(response.status, text, stream=stream)
    load.counts[end] += 1
    if end == "lost":
        print(f"lost: {response.status} {text[-300:]!r}", file=sys.stderr)
    if end == "answered":
        found = re.search(r"boxed\{(\d+)\}", "".join(contents(text, stream=stream)))
        load.counts["no answer found"] += found is None
        load.counts["wrong"] += found is not None and int(found[1]) != 2 * number + 17


def ending(status: int, text: str, *, stream: bool) -> str:
    """Whether a reply is an answer, an error in the API's format, or neither."""
    events = text.strip().split("\n\n") if stream and status == 200 else [f"data: {text}"]
    try:
        last = json.loads(events[-2 if events[-1] == "data: [DONE]" else -1][6:])
    except (ValueError, IndexError):
        return "lost"
    if isinstance(last.get("error"), dict) and last["error"].get("message"):
        return "refused"
    whole = status == 200 and "choices" in last and (not stream or events[-1] == "data: [DONE]")
    return "answered" if whole else "lost"


def contents(text: str, *, stream: bool) -> Iterator[str]:
    """The content of an answer, or its pieces in a stream."""
    if not stream:
        yield json.loads(text)["choices"][0]["message"]["content"]
        return
    for line in text.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:]).get("choices", ()):
                yield choice.get("delta", {}).get("content") or ""


def all_memory_mb(pid: int) -> float:
    """Private memory of a process and of all processes below it, in MB."""
    total = 0.0
    for each in (pid, *descendants(pid)):
        try:
            total += memory_mb(each)
        except OSError:
            continue
    return total


def socket_count(pid: int) -> int:
    """Number of open connections of a process."""
    names = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            names.append(os.readlink(descriptor))
    return sum(name.startswith("socket:") for name in names)


async def run_load(server: Served, clients: int, seconds: float) -> Load:
    """Ask for a time with a number of clients, and observe the memory."""
    load, end = Load(), time.monotonic() + seconds
    numbers = iter(range(10**9))

    async def client(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < end:
            await ask(session, server.port, next(numbers), load)

    async def observe() -> None:
        while time.monotonic() < end:
            load.memory.append(all_memory_mb(server.process.pid))
            await asyncio.sleep(1)

    timeout = aiohttp.ClientTimeout(total=600)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        await asyncio.gather(observe(), *(client(session) for _ in range(clients)))
    return load


def settle(server: Served, processes: int) -> None:
    """Wait until the server is idle and its processes have ended, 60 s at most.

    Then wait 20 s more, in which it closes its connections to the model server.
    """
    end = time.monotonic() + 60
    while time.monotonic() < end:
        seen = server.metrics()
        idle = not (seen["rstar_searching"] or seen["rstar_waiting"])
        if idle and len(descendants(server.process.pid)) <= processes:
            break
        time.sleep(0.5)
    time.sleep(20)


def soak(minutes: float, clients: int, share: float, folder: Path) -> dict[str, Any]:
    """Run everything and return the results."""
    more = ("--concurrency", str(clients), "--trees", "64")
    with faulty_model(share) as upstream:
        with served(upstream, *more) as server:
            pid = server.process.pid
            asyncio.run(run_load(server, clients, 60 * minutes / 3))
            settle(server, 0)
            processes, files = len(descendants(pid)), descriptors(pid)
            sockets = socket_count(pid)
            load = asyncio.run(run_load(server, clients, 60 * minutes))
            settle(server, processes)
            below = descendants(pid)
            left = {
                "processes_left": max(0, len(below) - processes),
                "descriptors_left": max(0, descriptors(pid) - files),
                "sockets_left": max(0, socket_count(pid) - sockets),
            }
        upstream_counts = upstream.counts()
    time.sleep(2)
    tenth = max(1, len(load.memory) // 10)
    tenths = [
        round(statistics.median(load.memory[at : at + tenth]), 1)
        for at in range(0, 10 * tenth, tenth)
    ]
    start, end = tenths[0], tenths[-1]
    names = ("requests", "answered", "refused", "lost", "wrong", "no answer found")
    return {
        **{name.replace(" ", "_"): load.counts[name] for name in names},
        **{name: upstream_counts[name] for name in ("model_requests", "faults", "hostile")},
        "memory_start_mb": start,
        "memory_end_mb": end,
        "memory_growth": round(end / start - 1, 4),
        "memory_by_tenth_mb": tenths,
        **left,
        "files_left": len(list(folder.iterdir())),
        "survivors": sum(Path(f"/proc/{each}").exists() for each in (pid, *below)),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--faults", type=float, default=0.1, help="share of faulty answers")
    options = parser.parse_args(arguments)
    where = machine()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder
        tempfile.tempdir = None
        figures = soak(options.minutes, options.clients, options.faults, Path(folder))
    for name, value in figures.items():
        print(f"{name:20} {value}")
    if options.json:
        print(json.dumps(figures | where))
    none = ("lost", "processes_left", "files_left", "survivors")
    files = figures["descriptors_left"] - figures["sockets_left"]
    return int(any(figures[name] for name in none) or files > 0 or figures["memory_growth"] > 0.05)


if __name__ == "__main__":
    sys.exit(main())
