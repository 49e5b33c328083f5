"""The limit for requests in flight: order, bounds, and what cancellation leaves behind."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rstar_math.llm.balancing import AdaptiveLimiter


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


async def settle() -> None:
    """Let every task go on as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_turns_come_in_the_order_of_asking() -> None:
    async def once() -> None:
        limiter, order = AdaptiveLimiter(2), list[int]()

        async def one(number: int) -> None:
            async with limiter:
                order.append(number)
                assert limiter.in_flight <= 2
                await asyncio.sleep(0.001 * (number % 3))

        await asyncio.gather(*(one(number) for number in range(30)))
        assert order == list(range(30))
        assert limiter.in_flight == 0

    run(once())


def test_refusals_of_requests_sent_together_halve_the_limit_once() -> None:
    limiter = AdaptiveLimiter(64)
    for _ in range(50):
        limiter.on_overload(0)
    assert (limiter.limit, limiter.reductions) == (32, 1)
    limiter.on_overload(1)
    assert limiter.limit == 16


def test_it_grows_by_one_for_as_many_successes_as_are_in_flight() -> None:
    limiter = AdaptiveLimiter(64)
    for cut in range(3):
        limiter.on_overload(cut)
    for _ in range(9):
        limiter.on_success()
    assert limiter.limit == 9


@given(st.integers(1, 9), st.lists(st.booleans(), max_size=200))
def test_the_limit_stays_between_one_and_the_most(most: int, events: list[bool]) -> None:
    limiter = AdaptiveLimiter(most)
    for good in events:
        if good:
            limiter.on_success()
        else:
            limiter.on_overload(limiter.reductions)
        assert 1 <= limiter.limit <= most


def test_a_smaller_limit_holds_for_those_that_wait() -> None:
    async def once() -> None:
        limiter, go = AdaptiveLimiter(4), asyncio.Event()

        async def one() -> None:
            async with limiter:
                await go.wait()

        tasks = [asyncio.create_task(one()) for _ in range(6)]
        await settle()
        limiter.on_overload(0)
        tasks[0].cancel()
        await settle()
        assert (limiter.limit, limiter.in_flight) == (2, 3)
        go.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert limiter.in_flight == 0

    run(once())


def test_who_is_cancelled_while_waiting_leaves_nothing_behind() -> None:
    async def once() -> None:
        limiter = AdaptiveLimiter(1)

        async def one() -> None:
            async with limiter:
                await asyncio.sleep(0)

        await limiter.__aenter__()
        waiting = [asyncio.create_task(one()) for _ in range(4)]
        await settle()
        waiting[0].cancel()
        waiting[2].cancel()
        await settle()
        # The turn comes to the next one in the very moment in which it is cancelled.
        await limiter.__aexit__(None, None, None)
        waiting[1].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert [task.cancelled() for task in waiting] == [True, True, True, False]
        assert limiter.in_flight == 0
        await one()

    run(once())


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from("gocr")), max_size=40))
def test_nobody_is_forgotten(events: list[tuple[int, str]]) -> None:
    """Whatever is cancelled and refused, all others get their turn."""

    async def once() -> None:
        limiter = AdaptiveLimiter(3)

        async def one(pause: int, act: str) -> None:
            async with limiter:
                since = limiter.reductions
                for _ in range(pause):
                    await asyncio.sleep(0)
                if act == "r":
                    limiter.on_overload(since)
                else:
                    limiter.on_success()

        tasks = [asyncio.create_task(one(*event)) for event in events]
        for task, (pause, act) in zip(tasks, events, strict=True):
            if act == "c":
                for _ in range(pause):
                    await asyncio.sleep(0)
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task, (_, act) in zip(tasks, events, strict=True):
            assert act == "c" or not task.cancelled()
        assert limiter.in_flight == 0

    run(once())
