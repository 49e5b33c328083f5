"""The simulated environment of `saturation.py`.

A model server in its own process, and a scorer and an executor that only take time. All random
values depend only on content, so two schedulers with equal requests get equal results.
"""

import asyncio
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from rstar_math.seeding import derive
from rstar_math.testing import Batching, serving
from rstar_math.types import Execution, ExecutionStatus, Question, Step

MEDIAN_TOKENS, SIGMA, MOST_TOKENS = 40, 0.8, 512
FIRST_END, LAST_END, END_SHARE = 2, 6, 0.3
"""Minimum and maximum number of code steps, and the probability of an end after each one between.
The answer is one more step.
"""


@dataclass(frozen=True, slots=True)
class Times:
    """Durations in simulated seconds; one simulated second takes `scale` real seconds."""

    scale: float = 0.25
    token_s: float = 0.008
    prefill_s: float = 0.02
    score_s: float = 0.02
    code_s: float = 0.01
    """Median; log-normal with sigma 0.5."""
    limit_s: float = 5.0
    """Duration of slow code."""
    prm_s: float = 0.15
    """Duration of a request to the process reward model."""
    prm_slots: int = 32
    """Requests that the process reward model handles at once."""

    def batching(self, slots: int) -> Batching:
        """The timing of the server in real seconds."""
        return Batching(slots, self.token_s * self.scale, self.prefill_s * self.scale)


def answer(body: Mapping[str, Any]) -> list[str]:
    """Next steps of log-normal length: comments and a line of code, or an answer."""
    prompt = str(body["prompt"])
    done = prompt.count("<step/>")
    answering = prompt.endswith("</output>\n")
    texts = []
    for index in range(body["n"]):
        rng = random.Random(derive(body["seed"], prompt, index))
        tokens = MEDIAN_TOKENS * math.exp(rng.gauss(0.0, SIGMA))
        number = rng.getrandbits(32)
        filler = " word" * (min(MOST_TOKENS, max(8, round(tokens))) - 6)
        if answering:
            texts.append(f"As computed{filler} it is \\boxed{{{number % 5}}}\n<answer/>")
            continue
        ends = done >= LAST_END or (done >= FIRST_END and rng.random() < END_SHARE)
        texts.append(f"#{filler}\nx = {number}\n{'<code/>' if ends else '<step/>'}")
    return texts


class TimedScorer:
    """A Scorer that takes a fixed time per call, independent of the load."""

    def __init__(self, times: Times) -> None:
        self._s = times.score_s * times.scale

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`. The values depend on the last step's text."""
        await asyncio.sleep(self._s)
        return [derive(1, question.id, prefix[-1].text) / 2**30 - 1.0 for prefix in prefixes]


@contextmanager
def prm_server(times: Times) -> Iterator[str]:
    """Run a process reward model server in another process during a `with` block; yields its
    address.

    It has vLLM's route /pooling. A request of any number of solutions holds one of `prm_slots` for
    `prm_s`, as a batch of a model would.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve_prm, args=(times, theirs), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send("end")
        process.join()


def _serve_prm(times: Times, door: Connection) -> None:
    asyncio.run(_answer_prm(times, door))


async def _answer_prm(times: Times, door: Connection) -> None:
    from aiohttp import web

    slots = asyncio.Semaphore(times.prm_slots)

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "qwen2.5-math-prm", "owned_by": "vllm"}]})

    async def pooling(request: web.Request) -> web.Response:
        body = await request.json()
        async with slots:
            await asyncio.sleep(times.prm_s * times.scale)
        data = []
        for index, text in enumerate(body["input"]):
            parts = text.split("<extra_0>")[:-1]
            rows = [[0.0, derive(3, part) / 2**30 - 1.0] for part in parts]
            data.append({"index": index, "data": rows})
        tokens = sum(len(text) // 4 for text in body["input"])
        return web.json_response({"data": data, "usage": {"prompt_tokens": tokens}})

    app = web.Application(client_max_size=1 << 26)
    app.add_routes([web.get("/v1/models", models), web.post("/pooling", pooling)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]
    door.send(f"http://127.0.0.1:{port}/v1")
    await asyncio.to_thread(door.recv)
    await runner.cleanup()


class TimedExecutor:
    """An Executor that takes time, independent of the load.

    A share `slow` of the steps reaches the time limit.
    """

    def __init__(self, times: Times, slow: float) -> None:
        self._times, self._slow = times, slow

    async def run(self, prefix: Sequence[Step], step: Step) -> Execution:
        """See `protocols.Executor`."""
        rng = random.Random(derive(2, step.code, len(prefix)))
        if rng.random() < self._slow:
            await asyncio.sleep(self._times.limit_s * self._times.scale)
            return Execution(ExecutionStatus.TIMEOUT, message="ran too long")
        await asyncio.sleep(self._times.code_s * math.exp(rng.gauss(0.0, 0.5)) * self._times.scale)
        return Execution(ExecutionStatus.OK, "17\n")


@dataclass(frozen=True, slots=True)
class Report:
    """The activity of a server since the last report. Times are `time.monotonic`."""

    spans: list[tuple[float, float]]
    """Start and end of each sample's slot."""
    requests: int
    cpu_s: float


class Server:
    """A fake model server in another process, created by `server`."""

    def __init__(self, url: str, door: Connection) -> None:
        self.url = url
        self._door = door

    def report(self) -> Report:
        """The activity since the last report."""
        self._door.send("report")
        report: Report = self._door.recv()
        return report


@contextmanager
def server(batching: Batching) -> Iterator[Server]:
    """Run a server during a `with` block."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(batching, theirs), daemon=True)
    process.start()
    try:
        yield Server(ours.recv(), ours)
    finally:
        ours.send("end")
        process.join()


def _serve(batching: Batching, door: Connection) -> None:
    """Serve, and report on request."""
    with serving(answer, batching=batching) as fake:
        assert fake.slots is not None
        door.send(fake.url)
        cpu_s = time.process_time()
        while door.recv() == "report":
            now_s = time.process_time()
            door.send(Report(list(fake.slots.spans), len(fake.requests), now_s - cpu_s))
            cpu_s = now_s
            fake.slots.clear()
            fake.requests.clear()
