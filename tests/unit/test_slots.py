"""Slots of the embedded server: never more in use than there are, none lost, states bounded."""

import asyncio
from itertools import takewhile
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from rstar_math.errors import ModelUnreachableError
from rstar_math.llm.client import OpenAIClient
from rstar_math.llm.slots import DecodingSlots, Slot, common_length

EXAMPLES = "An example that all prompts begin with. " * 10


class Server:
    """Saves and restores slots; a state takes one byte for each character."""

    def __init__(self, *, broken: bool = False) -> None:
        self.broken = broken
        self.holds: dict[int, str] = {}
        self.files: dict[str, str] = {}
        self.done: list[str] = []
        self.computed = 0
        """Characters that slots were made to hold without a restore."""

    async def post(self, route: str, body: dict[str, Any], **_: object) -> dict[str, Any]:
        await asyncio.sleep(0)
        if self.broken:
            raise ModelUnreachableError("No space left.")
        slot, action = int(route.split("/")[2].split("?")[0]), route.partition("action=")[2]
        self.done.append(action)
        if action == "save":
            self.files[body["filename"]] = self.holds.get(slot, "")
        else:
            self.holds[slot] = self.files[body["filename"]]
        return {"n_written": len(self.holds.get(slot, ""))}

    def slots(self, total: int, **options: Any) -> DecodingSlots[str]:
        return DecodingSlots(cast(OpenAIClient, self), total, empty="", **options)

    def compute(self, prompt: str, slot: Slot[str]) -> int:
        """Characters that are computed so that a slot holds a prompt."""
        had = common_length(self.holds.get(slot.number, ""), prompt)
        self.holds[slot.number] = prompt
        self.computed += len(prompt) - had
        return len(prompt) - had


@given(st.text("ab"), st.text("ab"))
def test_the_common_length_is_that_of_the_common_prefix(a: str, b: str) -> None:
    same = [x == y for x, y in zip(a, b, strict=False)]
    assert common_length(a, b) == len([*takewhile(bool, same)])
    assert common_length(tuple(map(ord, a)), tuple(map(ord, b))) == common_length(a, b)


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.text("ab", max_size=9), st.booleans(), st.booleans()), max_size=20),
    st.booleans(),
)
def test_no_slot_is_given_twice_and_all_come_back(
    total: int, asked: list[tuple[str, bool, bool]], broken: bool
) -> None:
    async def work() -> None:
        slots = Server(broken=broken).slots(total)
        used: set[int] = set()

        async def one(prompt: str, keep: bool) -> None:
            async with slots.acquire(prompt * 20, keep=keep) as slot:
                assert slot.number not in used
                used.add(slot.number)
                try:
                    await asyncio.sleep(0)
                finally:
                    used.discard(slot.number)
                slot.content = prompt * 20

        tasks = [asyncio.create_task(one(prompt, keep)) for prompt, keep, _ in asked]
        await asyncio.sleep(0)
        for task, (_, _, cancelled) in zip(tasks, asked, strict=True):
            if cancelled:
                task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert not [r for r in results if r and not isinstance(r, asyncio.CancelledError)]
        async with asyncio.TaskGroup() as group:
            barrier = asyncio.Barrier(total)

            async def all_at_once() -> None:
                async with slots.acquire(""):
                    await barrier.wait()

            for _ in range(total):
                group.create_task(all_at_once())
        slots.close()

    asyncio.run(asyncio.wait_for(work(), 5))


def test_what_prompts_have_in_common_is_computed_once() -> None:
    server, questions = Server(), [f"Question {n}?" for n in "abcdefgh"]

    async def work() -> None:
        slots = server.slots(8)

        async def one(question: str) -> None:
            prompt = EXAMPLES + question

            async def compute(slot: Slot[str]) -> int:
                await asyncio.sleep(0)
                return server.compute(prompt, slot)

            async def sample() -> None:
                async with slots.acquire(prompt) as slot:
                    await compute(slot)
                    slot.content = prompt

            await slots.share(prompt, 4, compute)
            await asyncio.gather(*(sample() for _ in range(4)))

        await asyncio.gather(*map(one, questions))
        slots.close()

    asyncio.run(work())
    distinct = len(EXAMPLES) + sum(map(len, questions))
    assert len(EXAMPLES) <= server.computed <= 1.2 * distinct


def test_a_chain_goes_on_from_its_own_slot_and_is_saved_before_it_is_replaced() -> None:
    server = Server()

    async def work() -> None:
        slots = server.slots(2)

        async def go_on(prompt: str) -> int:
            async with slots.acquire(prompt, keep=True) as slot:
                slot.content = prompt
                return server.compute(prompt, slot)

        chains = {name: name * 300 for name in "abcd"}
        for name in "ab":
            assert await go_on(chains[name]) == 300
        for name in "ba":
            chains[name] += name * 50
            assert await go_on(chains[name]) == 50
        assert server.done == []
        for name in "cd":
            assert await go_on(chains[name]) == 300
        for name in "abcd":
            chains[name] += "more"
            assert await go_on(chains[name]) <= 4
        assert slots.states_bytes < 8 * 400
        slots.close()

    asyncio.run(work())


def test_states_keep_to_their_memory() -> None:
    server = Server()

    async def work() -> None:
        slots = server.slots(1, states_bytes=1000)
        for name in "abcdefg":
            prompt = name * 300

            async def compute(slot: Slot[str], prompt: str = prompt) -> int:
                return server.compute(prompt, slot)

            assert await slots.share(prompt, 8, compute) == 300
            assert slots.states_bytes <= 1000
        assert await slots.share("g" * 300, 8, compute) is None
        slots.close()

    asyncio.run(work())
