"""Speed of rStar on many questions at once, compared with one question at a time.

    python benchmarks/mutual.py [--json] [--questions 48] [--serial 6] [--rollouts 4] [--real]

The fake server of the project (continuous batching over HTTP) runs in its own process: 128 slots,
2 ms per token, 5 ms of prefill (like a quarter of a small model on a GPU), answers of about 30
words. "Serial" is the scheme of the public rStar code: one question and one request at a time, each
request with all its samples. Both produce equal trees, which is checked. With --real the embedded
model is measured too, on a few questions (minutes).

The last line with --json is one object:

    batched_over_serial         questions per hour: many at once over one at a time
    batched_per_hour, serial_per_hour       questions per hour
    one_question_over_serial    a search of one question with concurrent requests, over serial
    requests_per_question, tokens_per_question, peer_tokens_per_question
    real_batched_over_serial, real_batched_per_hour, real_serial_per_hour    with --real
"""

import argparse
import asyncio
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from toy_talk import Talker, sum_problem

from rstar_math.config import Config, load_config
from rstar_math.search import to_record
from rstar_math.search.strategies import Strategy
from rstar_math.solver.solution import Solution
from rstar_math.solver.solver import Solver
from rstar_math.testing import Batching, serving
from rstar_math.types import Cost

SLOTS, TOKEN_S, PREFILL_S, WORDS = 128, 0.002, 0.005, 30
SMALL = ["actions.votes=16", "actions.sub_votes=8", "actions.candidates=3"]
ONE_AT_A_TIME = ["search.parallel_problems=1", "search.parallel_rollouts=1", "model.concurrency=1"]
REAL = ["actions.votes=8", "actions.sub_votes=4"]


def answer(body: Mapping[str, Any]) -> list[str]:
    """The answers of the fake server."""
    return Talker(0.6, words=WORDS)(str(body["prompt"]), body["n"], body.get("seed") or 0)


def _serve(connection: Connection) -> None:
    with serving(answer, batching=Batching(SLOTS, TOKEN_S, PREFILL_S)) as fake:
        connection.send(fake.url)
        connection.recv()


@contextmanager
def server() -> Iterator[str]:
    """Run a fake server in its own process; yields its address."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,))
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send(None)
        process.join()


async def solved(config: Config, questions: int, rollouts: int) -> tuple[list[Solution], float]:
    """The solutions of the first questions in order, and the elapsed seconds."""
    problems = [sum_problem(index) for index in range(questions)]
    async with Solver(config) as solver:
        await solver.solve(sum_problem(questions).question, Strategy("cot"))  # warm
        start = time.perf_counter()
        strategy = Strategy("rstar", rollouts)
        found = {p.id: s async for p, s in solver.map(problems, strategy)}
        seconds = time.perf_counter() - start
    return [found[problem.id] for problem in problems], seconds


def per_hour(questions: int, seconds: float) -> float:
    """Questions per hour."""
    return 3600 * questions / seconds


def against_serial(url: str, questions: int, serial: int, rollouts: int) -> dict[str, float]:
    """Results with the fake server."""

    def config(*settings: str) -> Config:
        return load_config("rstar", [*SMALL, *settings], model=url)

    many, many_s = asyncio.run(solved(config(), questions, rollouts))
    few, few_s = asyncio.run(solved(config(*ONE_AT_A_TIME), serial, rollouts))
    single = asyncio.run(solved(config("search.parallel_problems=1"), serial, rollouts))[1]
    for one, other in zip(many, few, strict=False):
        assert to_record(one.tree) == to_record(other.tree), "the two did not do the same"
    bill = Cost.total(solution.tree.cost for solution in many)
    return {
        "batched_over_serial": per_hour(questions, many_s) / per_hour(serial, few_s),
        "batched_per_hour": per_hour(questions, many_s),
        "serial_per_hour": per_hour(serial, few_s),
        "one_question_over_serial": few_s / single,
        "requests_per_question": bill.calls / questions,
        "tokens_per_question": bill.sampled_tokens / questions,
        "peer_tokens_per_question": bill.discriminator_tokens / questions,
    }


def real(questions: int) -> dict[str, float]:
    """Results with the embedded model."""

    def rate(count: int, *settings: str) -> float:
        config = load_config("rstar-laptop", [*REAL, *settings])
        return per_hour(count, asyncio.run(solved(config, count, 2))[1])

    many, few = rate(questions), rate(max(2, questions // 3), *ONE_AT_A_TIME[:2])
    return {
        "real_batched_over_serial": many / few,
        "real_batched_per_hour": many,
        "real_serial_per_hour": few,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    parser.add_argument("--questions", type=int, default=48)
    parser.add_argument("--serial", type=int, default=6)
    parser.add_argument("--rollouts", type=int, default=4)
    parser.add_argument("--real", action="store_true", help="also the embedded model")
    options = parser.parse_args(arguments)
    with server() as url:
        figures = against_serial(url, options.questions, options.serial, options.rollouts)
    if options.real:
        figures |= real(9)
    figures = {name: round(value, 3) for name, value in figures.items()}
    for name, value in figures.items():
        print(f"{name:28} {value:12.3f}")
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
