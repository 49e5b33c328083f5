"""Our server for real, in a thread of the test: uvicorn on a free port, with a scripted model."""

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from rstar_math.config import Config, SearchConfig, load_config
from rstar_math.costs import add_cost
from rstar_math.errors import ModelUnreachableError
from rstar_math.serve.app import Capacity, build
from rstar_math.serve.requests import ServerLimits
from rstar_math.solver.solver import Solver
from rstar_math.types import Cost, Question, Step
from rstar_math.web.access import AccessPolicy
from rstar_math.web.server import bind, close_idle_connections, server_config
from tests.unit.toy import DirectExecutor

SEARCH = SearchConfig(rollouts=4, candidates=4, max_depth=4)
ASK: Any = [{"role": "user", "content": "Add 20 and 22."}]


class Adder:
    """A policy that adds two numbers, half of the time wrongly, by its seed; and that can be slow.

    Counts its calls.
    """

    def __init__(self, pause_s: float = 0.0) -> None:
        self.pause_s = pause_s
        self.calls = 0
        self.questions: list[str] = []

    async def propose(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[Step]:
        """See `protocols.Policy`."""
        self.calls += 1
        self.questions.append(question.text)
        await asyncio.sleep(self.pause_s)
        if "silence" in question.text:
            return []
        if "bug" in question.text:
            raise ZeroDivisionError("a secret of the server")
        if "gone" in question.text:
            raise ModelUnreachableError("The model server does not answer; start it.")
        numbers = [int(number) for number in re.findall(r"\d+", question.text)][-2:]
        add_cost(Cost(calls=1, samples=k, prompt_tokens=30, sampled_tokens=20 * k))
        slips = [(seed >> at) % 4 == 0 for at in range(k)]
        return [
            Step(
                prose=f"Together it is \\boxed{{{sum(numbers) + slip}}}.",
                kind="answer",
                answer=str(sum(numbers) + slip),
            )
            if prefix
            else Step(prose=f"# Way {at}.\n", code=f"print({sum(numbers)})\n", kind="code")
            for at, slip in enumerate(slips)
        ]


class Live:
    """A server that answers."""

    def __init__(self, url: str) -> None:
        self.root = url.removesuffix("/v1")
        self.url = url
        self.end = threading.Event()
        """Set, it tells the server that it is ending."""

    def post(self, body: Any, path: str = "/v1/chat/completions", **more: Any) -> httpx.Response:
        """One request."""
        return httpx.post(f"{self.root}{path}", json=body, timeout=30, **more)

    def get(self, path: str, **more: Any) -> httpx.Response:
        """One look."""
        return httpx.get(f"{self.root}{path}", timeout=30, **more)

    def until(self, metric: str, value: float, seconds: float = 5.0) -> None:
        """Wait until a metric has a value."""
        end = time.monotonic() + seconds
        while (seen := self.metric(metric)) != value:
            assert time.monotonic() < end, f"{metric} is {seen}, not {value}"
            time.sleep(0.02)

    def metric(self, name: str) -> float | None:
        """The value of a metric; None where it has none yet."""
        for line in self.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        return None


@contextmanager
def live(
    policy: Any = None,
    *,
    config: Config | None = None,
    limits: ServerLimits | None = None,
    capacity: Capacity | None = None,
    access: AccessPolicy | None = None,
    head_s: float = 30.0,
    most: int = 1024,
) -> Iterator[Live]:
    """A server while the block runs; without a policy with the configuration's own model."""
    config = config or load_config(None, ["search.rollouts=4", "search.candidates=4"])
    listener = bind("127.0.0.1", 0)
    server = Live(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
    ready = threading.Event()
    uvicorns: list[uvicorn.Server] = []

    async def run() -> None:
        parts = {} if policy is None else {"policy": policy, "executor": DirectExecutor()}
        async with Solver(config, **parts) as solver:
            app = build(
                solver,
                limits=limits or (ServerLimits(config.search if policy is None else SEARCH)),
                capacity=capacity,
                access=access,
                is_shutting_down=server.end.is_set,
            )
            uvicorns.append(uvicorn.Server(server_config(app, most)))
            ready.set()
            sweeping = asyncio.create_task(close_idle_connections(uvicorns[0], head_s, 0.05))
            await uvicorns[0].serve(sockets=[listener])
            sweeping.cancel()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert ready.wait(60), "the server did not start"
    try:
        yield server
    finally:
        server.end.set()
        uvicorns[0].should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not end"


def events(text: str) -> list[Any]:
    """The JSON of a stream's events, without its end."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]
