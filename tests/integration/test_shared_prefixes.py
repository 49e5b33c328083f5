"""The embedded model computes a prompt's shared part once, and answers as it does without."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from rstar_math.checkpoints.folders import bundled_adapter
from rstar_math.costs import track_cost
from rstar_math.errors import ContextLengthError
from rstar_math.llm.local import LocalModel
from rstar_math.prompts import TAGS, few_shot_prompt
from rstar_math.types import Cost, Question

COUNTED = "llamacpp:prompt_tokens_total "
NAMES = ("Ann", "Bob", "Cid", "Dan", "Eve", "Fay", "Gus", "Hal")


def prompt(number: int) -> str:
    text = f"{NAMES[number]} has {number + 12} pens and buys 5 more. How many pens are there?"
    return few_shot_prompt(Question("q", text)) + TAGS.opening(())


def computed(model: LocalModel) -> int:
    """Prompt tokens that the engine has computed, by its own count."""
    lines = model.server.handle_metrics().splitlines()
    return int(next(line for line in lines if line.startswith(COUNTED)).split()[1])


async def distinct(model: LocalModel, prompts: Sequence[str]) -> int:
    """Nodes of the trie of the prompts' tokens."""
    sequences = [await model.tokenize(text) for text in prompts]
    return len({tokens[:end] for tokens in sequences for end in range(1, len(tokens) + 1)})


def on_model(
    work: Callable[[LocalModel], Awaitable[None]], *, slots: int = 8, adapter: Path | None = None
) -> None:
    """Run `work` on a fresh engine."""

    async def once() -> None:
        named = str(adapter) if adapter else None
        model = LocalModel("local", slots=slots, context_tokens=1024, adapter=named)
        try:
            await work(model)
        finally:
            await model.aclose()

    asyncio.run(once())


async def ask(model: LocalModel, text: str, n: int = 1, tokens: int = 4) -> list[str]:
    found = await model.complete(
        text, n=n, stop=["\n\n"], max_tokens=tokens, temperature=0.0, seed=1
    )
    return [completion.text for completion in found]


@pytest.mark.parametrize("n", [1, 4])
def test_eight_questions_at_once_compute_the_worked_examples_once(n: int) -> None:
    prompts = [prompt(number) for number in range(8)]

    async def work(model: LocalModel) -> None:
        with track_cost() as cost:
            await asyncio.gather(*(ask(model, text, n) for text in prompts))
        nodes = await distinct(model, prompts)
        assert nodes <= computed(model) <= 1.2 * nodes
        assert cost.prompt_tokens == sum([len(await model.tokenize(text)) for text in prompts])
        uncached = cost.prompt_tokens - cost.cached_tokens
        assert nodes <= uncached <= 1.2 * nodes

    on_model(work)


def test_chains_compute_only_what_is_new_to_them() -> None:
    async def work(model: LocalModel) -> None:
        sent: list[str] = []

        async def chain(begun: str, number: int) -> None:
            for step in range(4):
                begun += f" {number} is a number, and the step after it is number {step}."
                sent.append(begun)
                begun += (await ask(model, begun))[0]

        sent.append(prompt(0))
        await ask(model, prompt(0), n=8)
        await asyncio.gather(*(chain(prompt(0), number) for number in range(8)))
        assert computed(model) <= 1.2 * await distinct(model, sent)

    on_model(work, slots=4)


def test_samples_of_one_prompt_count_it_once() -> None:
    async def work(model: LocalModel) -> None:
        tokens = len(await model.tokenize(prompt(0)))
        with track_cost() as cost:
            assert len(await ask(model, prompt(0), n=11)) == 11
        assert (cost.calls, cost.samples, cost.prompt_tokens) == (1, 11, tokens)
        assert (cost.cached_tokens, computed(model)) == (0, tokens - 1 + 11)
        with track_cost() as cost:
            await ask(model, prompt(0), n=2)
        assert (cost.prompt_tokens, cost.cached_tokens) == (tokens, tokens - 1)

    on_model(work)


def answers(adapter: Path | None = None) -> tuple[list[str], list[str]]:
    """Greedy answers to prompts that share a prefix, two for each prompt: computed anew for each,
    and all at once."""
    starts = (21, 34, 47, 52, 65, 73)
    counts = [", ".join(str(start + at) for at in range(8)) for start in starts]
    prompts = [f"{few_shot_prompt(Question('q', 'How many?'))}{count}," for count in counts]
    alone: list[str] = []
    shared: list[str] = []

    async def work(model: LocalModel) -> None:
        for text in prompts:
            body = {"prompt": text, "n_predict": 8, "temperature": 0, "cache_prompt": False}
            answer = await model._client.post("/completion", body, outside_v1=True)
            assert isinstance(answer, dict)
            alone.extend([answer["content"]] * 2)
        before = computed(model)
        found = await asyncio.gather(*(ask(model, text, 2, 8) for text in prompts))
        assert computed(model) - before < 0.5 * before
        shared.extend(text for texts in found for text in texts)

    on_model(work, adapter=adapter)
    return alone, shared


def test_greedy_answers_are_those_without_sharing() -> None:
    alone, shared = answers()
    assert shared == alone


def test_an_adapter_shares_prefixes_too() -> None:
    with bundled_adapter("policy") as (adapter, _):
        alone, shared = answers(adapter)
    # The adapter makes the model less sure of counting, and near ties fall by the batch's shape.
    assert sum(a == b for a, b in zip(alone, shared, strict=True)) >= 8


def test_a_restored_state_gives_the_same_probabilities_to_the_last_bit() -> None:
    async def work(model: LocalModel) -> None:
        found: dict[int, object] = {}
        await model._slots.share(prompt(0), 2, partial(model._compute_prompt, prompt(0)))
        async with AsyncExitStack() as held:
            for _ in range(3):
                slot = await held.enter_async_context(model._slots.acquire(prompt(0)))
                body = {"prompt": prompt(0), "n_predict": 1, "n_probs": 20, "id_slot": slot.number}
                answer = await model._client.post("/completion", body, outside_v1=True)
                assert isinstance(answer, dict)
                assert answer["timings"]["prompt_n"] == 1
                found[slot.number] = answer["completion_probabilities"][0]["top_logprobs"]
        first, *others = found.values()
        assert others == [first, first]

    on_model(work)


def test_cancelled_requests_leave_all_slots_usable() -> None:
    async def work(model: LocalModel) -> None:
        for pause_s in (0.0, 0.05, 0.5):
            tasks = [asyncio.create_task(ask(model, prompt(i), 4, 64)) for i in range(4)]
            await asyncio.sleep(pause_s)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        found = await asyncio.wait_for(
            asyncio.gather(*(ask(model, "1, 2, 3, 4, 5,", 4) for _ in range(4))), 120
        )
        assert {text[:5] for texts in found for text in texts} == {" 6, "}

    on_model(work)


@pytest.mark.parametrize("n", [1, 3])
def test_a_prompt_that_is_too_long_is_still_said_to_be(n: int) -> None:
    async def work(model: LocalModel) -> None:
        with track_cost() as cost, pytest.raises(ContextLengthError, match="does not fit"):
            await ask(model, "word " * 1500, n)
        assert cost == Cost()
        assert await ask(model, "1, 2, 3, 4, 5,", n) == [" 6, "] * n

    on_model(work, slots=2)
