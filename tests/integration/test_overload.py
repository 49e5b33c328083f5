"""A model server that takes fewer requests at once than it is given, and one that batches."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import pytest

from rstar_math.costs import track_cost
from rstar_math.llm.client import OpenAIClient, Retry
from rstar_math.testing import Batching, FakeServer, serving
from rstar_math.types import Cost


def answer(body: Mapping[str, Any]) -> list[str]:
    return [f"{body['prompt']} one two three<step/>"] * body["n"]


def complete(fake: FakeServer, requests: int, n: int = 1, concurrency: int = 32) -> Cost:
    """What so many requests at once cost; each gets the answer to its own prompt."""

    async def once() -> Cost:
        retry = Retry(max_retries=6, timeout_s=10.0, pause_s=0.05)
        model = OpenAIClient(fake.url, name="fake", concurrency=concurrency, retry=retry)

        async def one(number: int) -> None:
            found = await model.complete(
                f"p{number}", n=n, stop=["/>"], max_tokens=9, temperature=0.0, seed=number
            )
            assert [c.text for c in found] == [f"p{number} one two three<step"] * n

        try:
            with track_cost() as cost:
                async with asyncio.TaskGroup() as group:
                    for number in range(requests):
                        group.create_task(one(number))
            return cost
        finally:
            await model.aclose()

    return asyncio.run(once())


@pytest.mark.parametrize(("most", "refusals"), [(1, 240), (4, 120)])
def test_a_server_that_refuses_gets_all_its_work_done(most: int, refusals: int) -> None:
    """The first requests are sent at once and refused; then the client knows."""
    with serving(answer, delay_s=0.02) as fake:
        fake.max_in_flight = most
        cost = complete(fake, 120)
    assert (cost.calls, cost.failures) == (120, 0)
    assert cost.retries == fake.refused <= refusals


def test_a_server_that_takes_all_is_never_held_back() -> None:
    with serving(answer, delay_s=0.05) as fake:
        fake.max_in_flight = 32
        cost = complete(fake, 96)
    assert (cost.calls, cost.retries, fake.refused) == (96, 0, 0)


def test_samples_share_the_slots_of_a_batching_server() -> None:
    """40 samples of 4 tokens in 4 slots: ten rounds of 0.04 s, however they are asked for."""
    with serving(answer, batching=Batching(slots=4, token_s=0.01)) as fake:
        start = time.monotonic()
        complete(fake, 10, n=4)
        wall_s = time.monotonic() - start
        assert fake.slots is not None
        assert fake.slots.busy_s == pytest.approx(40 * 0.04)
        ends = sorted(end for _, end in fake.slots.spans)
    assert wall_s >= 0.4
    assert ends[-1] - ends[0] == pytest.approx(0.36, abs=0.1)


def test_five_hundred_connections_are_served() -> None:
    with serving(answer, batching=Batching(slots=512, token_s=0.1)) as fake:
        cost = complete(fake, 600, concurrency=600)
    assert (cost.calls, cost.retries) == (600, 0)


@pytest.mark.parametrize(("concurrency", "connections"), [(1, 1), (8, 8)])
def test_connections_are_used_again(concurrency: int, connections: int) -> None:
    with serving(answer, delay_s=0.01) as fake:
        complete(fake, 40, concurrency=concurrency)
        assert len(fake.requests) == 40
        assert fake.connections == connections


def test_requests_that_are_cut_short_leave_no_connection_behind_that_hangs() -> None:
    """Cancelled in every phase, also while a reply is being read; later requests are answered."""

    async def once(fake: FakeServer) -> None:
        model = OpenAIClient(
            fake.url, name="fake", concurrency=8, retry=Retry(max_retries=0, timeout_s=5)
        )

        async def one(number: int) -> None:
            await model.complete(
                f"{number}", n=1, stop=[], max_tokens=9, temperature=0.0, seed=number
            )

        try:
            for round_ in range(40):
                tasks = [asyncio.create_task(one(number)) for number in range(8)]
                await asyncio.sleep(0.0005 * (round_ % 12))
                for task in tasks[::2]:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
                assert not any(isinstance(result, Exception) for result in results)
            async with asyncio.timeout(5):
                await asyncio.gather(*(one(number) for number in range(16)))
        finally:
            await model.aclose()

    with serving(lambda body: ["yes " * 50]) as fake:
        asyncio.run(once(fake))
