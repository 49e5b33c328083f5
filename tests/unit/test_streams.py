"""The embedded engine's streams: never more taken than there are, none lost."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from rstar_math.models.local import Streams


@given(
    st.integers(1, 8),
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 3), st.booleans()), max_size=20),
)
def test_streams_are_never_oversold_and_all_come_back(
    total: int, wants: list[tuple[int, int, bool]]
) -> None:
    streams = Streams(total)
    held = 0
    served: list[int] = []

    async def one(number: int, n: int, turns: int) -> None:
        nonlocal held
        async with streams.taken(n):
            held += min(n, total)
            assert held <= total
            try:
                for _ in range(turns):
                    await asyncio.sleep(0)
            finally:
                held -= min(n, total)
        served.append(number)

    async def all_of_them() -> None:
        tasks = [asyncio.create_task(one(i, n, turns)) for i, (n, turns, _) in enumerate(wants)]
        await asyncio.sleep(0)
        for task, (_, _, cancelled) in zip(tasks, wants, strict=True):
            if cancelled:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with streams.taken(total):
            pass

    asyncio.run(asyncio.wait_for(all_of_them(), 5))
    assert set(served) >= {i for i, (_, _, cancelled) in enumerate(wants) if not cancelled}


def test_a_small_request_may_pass_one_that_does_not_fit() -> None:
    async def once() -> list[str]:
        streams = Streams(8)
        order: list[str] = []

        async def one(name: str, n: int) -> None:
            async with streams.taken(n):
                order.append(name)
                await asyncio.sleep(0.01)

        await asyncio.gather(one("first", 6), one("big", 8), one("small", 2), one("next", 8))
        return order

    assert asyncio.run(once()) == ["first", "small", "big", "next"]
