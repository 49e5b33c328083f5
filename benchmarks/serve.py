"""Overhead of our server over the model behind it, with 200 concurrent chats.

    python benchmarks/serve.py [--json] [--clients 200] [--chats 10] [--model rstar-greedy]
                               [--token-ms 50]

A scripted model server writes 20 tokens per second and stream (4,000 in total: about one 7B model
on one large GPU), after 50 ms for the prompt. Steps have 20 to 60 tokens. Bare model: each client
sends the steps of a question itself, one request after another, and inserts the program's output
(three requests, 6.2 s on average). Our server (`rstar serve`, all processes separate): the same
clients send the same questions to rstar-greedy, both plain and streamed. It requests exactly the
same texts. The overhead consists of the search, the sandbox that runs the programs, grading, JSON,
the log and the storage of trees. All questions take the model the same time but have different
programs, so no cache of the sandbox helps. Each client starts at its own moment of the first
seconds and sends its next question when it has an answer, so all chats are always in flight. The
overhead is computed per question: time through our server minus time of the bare model.

The last line with --json is one object:

    p50_overhead_ms, p99_overhead_ms, p50_overhead_streamed_ms, p99_overhead_streamed_ms
    bare_p50_ms, bare_p99_ms        time of the bare model per question
    first_byte_p99_ms               time until a stream begins
    cpu_ms_per_request              processor time of our server per chat, without its sandbox
    sandbox_cpu_ms_per_request      of the sandbox's processes
    cpu_ms_per_request_streamed     the same for streams, which report the search's progress
    requests_per_s                  plain chats per second
    memory_growth_mb, descriptors_left   of our server, from the first tenth to the end
    lost                            chats without a good answer; must be 0
"""

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from saturation import machine
from serve_world import (
    AGAIN,
    MOST,
    Client,
    Pace,
    below_cpu_s,
    cpu_s,
    descriptors,
    memory_mb,
    model,
    quantile,
    question,
    served,
)

from rstar_math.prompts import TAGS, few_shot_prompt
from rstar_math.types import Question

Chat = Callable[[Client, int], Awaitable[tuple[bool, float]]]
"""Question number -> whether the answer is good, and the seconds until it began."""


@dataclass(slots=True)
class Load:
    """The observations of the clients."""

    seconds: dict[int, float] = field(default_factory=dict)
    """By question."""
    begun: list[float] = field(default_factory=list)
    lost: int = 0
    wall_s: float = 0.0


async def bare(client: Client, number: int) -> tuple[bool, float]:
    """Send all steps of a question to the bare model."""
    prompt = few_shot_prompt(Question("q", question(number))) + "<code>\n"
    text = ""
    for _ in range(3):
        body = {"model": "scripted", "prompt": prompt, "n": 1, "max_tokens": 512, "seed": 0}
        body |= {"stop": list(TAGS.stops), "temperature": 0.0}
        status, reply = await client.ask("/v1/completions", body)
        text = json.loads(reply)["choices"][0]["text"] + "/>\n"
        prompt += text
        if text.endswith("<code/>\n"):
            prompt += f"<output>\n{2 * number + 17}\n</output>\n"
    return status == 200 and "boxed" in text, 0.0


async def chat(client: Client, number: int, *, name: str, stream: bool) -> tuple[bool, float]:
    """Send a question to our server."""
    body = {"model": name, "messages": [{"role": "user", "content": question(number)}]}
    started = time.monotonic()
    status, headers = await client.send("/v1/chat/completions", {**body, "stream": stream})
    first = time.monotonic() - started
    text = b"".join([piece async for piece in client.body(headers)])
    good = status == 200 and b"boxed{" in text and (not stream or text.endswith(b"[DONE]\n\n"))
    return good, first


async def load(
    port: int, ask: Chat, clients: int, chats: int, spread_s: float, *, first: int = 0
) -> Load:
    """Run all clients, each with its questions in sequence, numbered from `first`."""
    seen = Load()

    async def one(at: int) -> None:
        client = Client(port)
        await asyncio.sleep(spread_s * at / clients)
        for number in range(at * chats, (at + 1) * chats):
            started = time.monotonic()
            try:
                good, begun = await ask(client, first + number)
            except (OSError, EOFError, ValueError, KeyError):
                good, begun = False, 0.0
                client.hang_up()
            seen.seconds[number] = time.monotonic() - started
            seen.begun.append(begun)
            seen.lost += not good
        client.hang_up()

    started = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for at in range(clients):
            group.create_task(one(at))
    seen.wall_s = time.monotonic() - started
    return seen


def overhead(ours: Load, bare: Load, share: float) -> float:
    """Milliseconds more than the bare model, per question."""
    return 1000 * quantile([ours.seconds[n] - bare.seconds[n] for n in bare.seconds], share)


def measure(clients: int, chats: int, name: str, pace: Pace) -> dict[str, float]:
    """All results."""
    spread_s = 3 * (pace.prefill_s + MOST * pace.token_s)
    total = clients * chats
    with model(pace) as at, served(at, "--concurrency", str(clients)) as server:
        pid = server.process.pid
        plain = partial(chat, name=name, stream=False)

        def run(port: int, ask: Chat, turn: int, chats: int = chats) -> Load:
            asking = load(port, ask, clients, chats, spread_s, first=turn * AGAIN)
            return asyncio.run(asking)

        run(server.port, plain, 1, max(1, chats // 10))
        before_mb, files = memory_mb(pid), descriptors(pid)
        alone = run(at.port, bare, 0)
        spent = [(cpu_s(pid), below_cpu_s(pid))]
        whole = run(server.port, plain, 2)
        spent.append((cpu_s(pid), below_cpu_s(pid)))
        streamed = run(server.port, partial(chat, name=name, stream=True), 3)
        spent.append((cpu_s(pid), below_cpu_s(pid)))
        time.sleep(1)
        figures = {
            "p50_overhead_ms": overhead(whole, alone, 0.5),
            "p99_overhead_ms": overhead(whole, alone, 0.99),
            "p50_overhead_streamed_ms": overhead(streamed, alone, 0.5),
            "p99_overhead_streamed_ms": overhead(streamed, alone, 0.99),
            "bare_p50_ms": 1000 * quantile(list(alone.seconds.values()), 0.5),
            "bare_p99_ms": 1000 * quantile(list(alone.seconds.values()), 0.99),
            "first_byte_p99_ms": 1000 * quantile(streamed.begun, 0.99),
            "cpu_ms_per_request": 1000 * (spent[1][0] - spent[0][0]) / total,
            "sandbox_cpu_ms_per_request": 1000 * (spent[1][1] - spent[0][1]) / total,
            "cpu_ms_per_request_streamed": 1000 * (spent[2][0] - spent[1][0]) / total,
            "requests_per_s": total / whole.wall_s,
            "memory_growth_mb": memory_mb(pid) - before_mb,
            "descriptors_left": descriptors(pid) - files,
            "lost": alone.lost + whole.lost + streamed.lost,
        }
    return {name: round(value, 2) for name, value in figures.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--chats", type=int, default=10, help="questions of each client")
    parser.add_argument("--model", default="rstar-greedy")
    parser.add_argument("--token-ms", type=float, default=50.0)
    options = parser.parse_args(arguments)
    where = machine()
    pace = Pace(options.token_ms / 1000)
    figures = measure(options.clients, options.chats, options.model, pace)
    for name, value in figures.items():
        print(f"{name:32} {value:12.2f}")
    if options.json:
        print(json.dumps(figures | where | {"clients": options.clients, "chats": options.chats}))


if __name__ == "__main__":
    main()
