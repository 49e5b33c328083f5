"""Cassettes: what was recorded comes back, in trees too, in any order of arrival; and what was not
recorded or is damaged is named."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rstar_math.config import PolicyConfig, SearchConfig
from rstar_math.costs import add_cost, track_cost
from rstar_math.errors import (
    ContextLengthError,
    InputError,
    ModelRejectedError,
    ModelUnreachableError,
    StoreError,
)
from rstar_math.policies.completions import StepPolicy
from rstar_math.prompts import TAGS
from rstar_math.protocols import Completer, Completion
from rstar_math.search import SearchComponents, Tree, grow, sample_chains, to_record
from rstar_math.seeding import derive
from rstar_math.testing import Cassette, ToyWorld
from rstar_math.types import Cost, Problem, Question, Step

WORLD = ToyWorld(steps=3)
PROBLEMS = WORLD.problems(40)


class ToyModel:
    """The toy world's policy as a model that is asked by text; some samples are cut off, and some
    prompts are too long for it. Takes its time, so that arrival order is not the order of asking.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.fails: type[Exception] | None = None

    async def complete(
        self,
        prompt: str,
        *,
        n: int,
        stop: Sequence[str],
        max_tokens: int,
        temperature: float,
        seed: int,
    ) -> list[Completion]:
        self.asked += 1
        await asyncio.sleep(derive(seed, prompt) % 3 / 2000)
        if self.fails is not None:
            raise self.fails("as told")
        tokens = len(prompt.split())
        add_cost(Cost(prompt_tokens=tokens, retries=1, seconds=0.5))
        if derive(0, prompt) % 20 == 0:
            raise ContextLengthError(f"{tokens} tokens are too many")
        text, _, solution = prompt.rpartition("Question: ")[2].partition("\n")
        prefix: list[Step] = []
        for step in TAGS.parse(solution):
            execution = await WORLD.executor.run(prefix, step) if step.code else None
            prefix.append(replace(step, execution=execution))
        steps = await WORLD.policy.propose(Question("asked", text), prefix, n, seed=seed)
        return [
            Completion(f"{step.text}<{step.kind}", derive(seed, at) % 9 > 0, "/>", at)
            for at, step in enumerate(steps)
        ]


async def ask(
    completer: Completer, prompt: str = "Question: Add 3, 5, 7.\n<code>\n", seed: int = 0
) -> list[Completion]:
    return await completer.complete(
        prompt, n=4, stop=TAGS.stops, max_tokens=99, temperature=0.8, seed=seed
    )


async def trees(completer: Completer, at_once: int) -> list[str]:
    """The records of an MCTS tree and of a tree of chains for each problem, some at once."""
    policy = StepPolicy(completer, PolicyConfig(prompt="trained"))
    gate = asyncio.Semaphore(at_once)

    async def searched(problem: Problem) -> list[Tree]:
        tree, wide, chains = (Tree(problem.question) for _ in range(3))
        async with gate:
            config = SearchConfig(rollouts=4, candidates=4)
            await grow(tree, policy=policy, executor=WORLD.executor, config=config)
            flying = SearchConfig(rollouts=6, candidates=4, parallel_rollouts=3)
            await grow(wide, policy=policy, executor=WORLD.executor, config=flying)
            parts = SearchComponents(policy, WORLD.executor)
            await sample_chains(chains, 4, parts=parts, config=SearchConfig(seed=1))
        return [tree, wide, chains]

    found = await asyncio.gather(*map(searched, PROBLEMS))
    return [json.dumps(to_record(tree)) for trees in found for tree in trees]


def test_replay_gives_the_recorded_trees_in_any_order_of_arrival(tmp_path: Path) -> None:
    cassette = Cassette(tmp_path / "answers.jsonl")
    model = ToyModel()
    recorded = asyncio.run(trees(cassette.recording(model), 16))
    assert asyncio.run(trees(ToyModel(), 16)) == recorded
    assert asyncio.run(trees(cassette.replaying(), 1)) == recorded
    for seed in range(2):
        shaken = cassette.replaying(jitter_s=0.002, seed=seed)
        assert asyncio.run(trees(shaken, 64)) == recorded
    together = "".join(recorded)
    for word in ("context exceeded", "boxed", '"truncated"', '"prompt_tokens"'):
        assert word in together
    lines = cassette.path.read_text().splitlines()
    assert len(lines) == model.asked
    assert max(map(len, lines)) < 3000


def test_a_recording_asks_once_and_goes_on_where_it_was(tmp_path: Path) -> None:
    async def twice(completer: Completer) -> list[list[Completion]]:
        return list(await asyncio.gather(ask(completer), ask(completer)))

    cassette, model = Cassette(tmp_path / "answers.jsonl"), ToyModel()
    with track_cost() as first:
        one, two = asyncio.run(twice(cassette.recording(model)))
    assert one == two
    with track_cost() as later:
        assert asyncio.run(twice(cassette.recording(model))) == [one, two]
    assert model.asked == 1
    assert len(cassette.path.read_text().splitlines()) == 1
    assert (first.seconds, later.seconds) == (0.5, 0.0)
    assert replace(first, seconds=0.0) == later
    assert later.prompt_tokens == 12


def test_every_argument_is_part_of_the_key(tmp_path: Path) -> None:
    cassette, model = Cassette(tmp_path / "answers.jsonl"), ToyModel()
    asyncio.run(ask(cassette.recording(model)))
    playing = cassette.replaying()
    assert len(asyncio.run(ask(playing))) == 4
    with pytest.raises(ModelRejectedError, match="seed=1, "):
        asyncio.run(ask(playing, seed=1))
    with pytest.raises(ModelRejectedError, match=r"prompt ends with .*3, 5, 8"):
        asyncio.run(ask(playing, "Question: Add 3, 5, 8.\n<code>\n"))
    for n, stop, max_tokens, temperature in (
        (3, TAGS.stops, 99, 0.8),
        (4, (), 99, 0.8),
        (4, TAGS.stops, 98, 0.8),
        (4, TAGS.stops, 99, 0.7),
    ):
        with pytest.raises(ModelRejectedError):
            asyncio.run(
                playing.complete(
                    "Question: Add 3, 5, 7.\n<code>\n",
                    n=n,
                    stop=stop,
                    max_tokens=max_tokens,
                    temperature=temperature,
                    seed=0,
                )
            )


def test_an_error_of_the_model_is_not_recorded(tmp_path: Path) -> None:
    async def both(completer: Completer) -> list[list[Completion] | BaseException]:
        calls = (ask(completer), ask(completer))
        return list(await asyncio.gather(*calls, return_exceptions=True))

    cassette, model = Cassette(tmp_path / "answers.jsonl"), ToyModel()
    model.fails = ModelUnreachableError
    recording = cassette.recording(model)
    assert all(isinstance(end, ModelUnreachableError) for end in asyncio.run(both(recording)))
    assert model.asked == 2
    assert cassette.path.read_text() == ""
    model.fails = None
    assert asyncio.run(ask(recording)) == asyncio.run(ask(cassette.replaying()))


def test_a_cancelled_call_leaves_no_line_and_holds_up_nobody(tmp_path: Path) -> None:
    async def run(completer: Completer) -> list[Completion]:
        first, second = asyncio.create_task(ask(completer)), asyncio.create_task(ask(completer))
        await asyncio.sleep(0)
        first.cancel()
        return await second

    cassette, model = Cassette(tmp_path / "answers.jsonl"), ToyModel()
    assert len(asyncio.run(run(cassette.recording(model)))) == 4
    assert model.asked == 2
    assert len(cassette.path.read_text().splitlines()) == 1


@pytest.mark.parametrize("tail", [b'{"format": 1, "key": "ab', b"\x00\x00\x00", b'{"a": 1}\n'])
def test_a_last_line_that_is_cut_off_does_not_count(tmp_path: Path, tail: bytes) -> None:
    cassette, model = Cassette(tmp_path / "answers.jsonl"), ToyModel()
    answer = asyncio.run(ask(cassette.recording(model)))
    whole = cassette.path.read_bytes()
    cassette.path.write_bytes(whole + tail)
    assert asyncio.run(ask(cassette.replaying())) == answer
    assert cassette.path.read_bytes() == whole + tail
    asyncio.run(ask(cassette.recording(model), seed=1))
    assert cassette.path.read_bytes().startswith(whole)
    assert len(cassette.path.read_bytes().splitlines()) == 2
    cassette.path.write_bytes(whole[:-1])
    with pytest.raises(ModelRejectedError):
        asyncio.run(ask(cassette.replaying()))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{\n", "Line 2 of the cassette .* is damaged, .* delete the line"),
        (b"7\n", "Line 2"),
        (b'{"format": 1, "key": "k", "cost": {}}\n', "Line 2"),
        (b'{"format": 1, "key": "k", "cost": {"sweets": 1}, "completions": []}\n', "Line 2"),
        (b'{"format": 9}\n', "format 9"),
    ],
)
def test_damage_before_the_last_line_is_refused(tmp_path: Path, line: bytes, said: str) -> None:
    cassette, model = Cassette(tmp_path / "answers.jsonl"), ToyModel()
    for seed in range(2):
        asyncio.run(ask(cassette.recording(model), seed=seed))
    first, second = cassette.path.read_bytes().splitlines(keepends=True)
    cassette.path.write_bytes(first + line + second)
    with pytest.raises(StoreError, match=said):
        cassette.replaying()
    with pytest.raises(StoreError, match=said):
        cassette.recording(model)
    assert cassette.path.read_bytes() == first + line + second


@pytest.mark.parametrize("content", [b"my notes", b"my notes\n", b'{"id": 1, "question": "q"}\n'])
def test_a_file_that_is_no_cassette_is_left_alone(tmp_path: Path, content: bytes) -> None:
    cassette = Cassette(tmp_path / "notes.jsonl")
    cassette.path.write_bytes(content)
    with pytest.raises(StoreError, match="not a cassette"):
        cassette.recording(ToyModel())
    assert cassette.path.read_bytes() == content
    cassette.path.write_bytes(b'{"form')
    assert len(asyncio.run(ask(cassette.recording(ToyModel())))) == 4


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read .* record one with"):
        Cassette(tmp_path / "none.jsonl").replaying()
    with pytest.raises(InputError, match="cannot be written"):
        Cassette(tmp_path / "no" / "folder.jsonl").recording(ToyModel())
