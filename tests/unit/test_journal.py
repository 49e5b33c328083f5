"""A search that stops at any request goes on from its journal, and ends in the same tree."""

import asyncio
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rstar_math.config import SearchConfig
from rstar_math.errors import RequestError, StoreError
from rstar_math.runs.journal import GrowingTrees, Journal
from rstar_math.runs.recording import (
    RecordedCompleter,
    RecordedExecutor,
    RecordedScorer,
    RecordedVerifier,
    record_policy,
)
from rstar_math.search import Choice, SearchComponents, Tree, run_strategy, to_record
from rstar_math.search.strategies import parse_strategies
from rstar_math.testing import ScriptedCompleter, ToyWorld
from rstar_math.types import Question, Step
from tests.unit.toy import same_text

WORLD = ToyWorld(steps=3)
PROBLEM = WORLD.problems(1)[0]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mcts": ("mcts@4", {}),
    "in flight": ("mcts@6", {"parallel_rollouts": 3}),
    "runs": ("mcts@2x3", {}),
    "budget": ("mcts", {"token_budget": 900}),
    "sc": ("sc@5", {}),
    "sc budget": ("sc", {"token_budget": 600}),
    "asc": ("asc@8", {}),
    "beam": ("beam@3", {}),
    "dvts": ("dvts@3", {}),
    "value": ("value@2", {}),
    "particles": ("particles@4", {}),
}


class Killed(Exception):
    """Stands for the end of the process."""


class Mortal:
    """A policy that dies at its n-th request, and counts the requests that it answered."""

    def __init__(self, after: int | None = None) -> None:
        self.after, self.asked = after, 0
        self._policy = WORLD.policy

    async def propose(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[Step]:
        """See `protocols.Policy`."""
        if self.after is not None and self.asked >= self.after:
            raise Killed
        self.asked += 1
        await asyncio.sleep(0)
        return await self._policy.propose(question, prefix, k, seed=seed)


def searched(name: str, policy: Mortal, journal: Journal | None) -> tuple[Tree, Choice]:
    spec, options = CASES[name]
    (strategy,) = parse_strategies(spec)
    parts = SearchComponents(policy, WORLD.executor, WORLD.scorer(), WORLD.verifier(PROBLEM))
    if journal is not None:
        assert parts.scorer is not None
        assert parts.verifier is not None
        parts = SearchComponents(
            record_policy(policy, journal),
            RecordedExecutor(parts.executor, journal),
            RecordedScorer(parts.scorer, journal),
            RecordedVerifier(parts.verifier, journal),
        )
    tree, config = Tree(PROBLEM.question), SearchConfig(candidates=3, **options)
    if journal is not None:
        journal.tree = tree
    choice = asyncio.run(run_strategy(tree, strategy, parts, config, group=same_text))
    return tree, choice


@pytest.mark.parametrize("name", CASES)
def test_wherever_it_stops_it_ends_in_the_same_tree(name: str, tmp_path: Path) -> None:
    policy = Mortal()
    whole, choice = searched(name, policy, None)
    assert policy.asked >= 3
    for stop in range(policy.asked):
        growing = GrowingTrees(tmp_path / str(stop))
        journal, first = growing.open("p", name), Mortal(stop)
        with pytest.raises(Killed):
            searched(name, first, journal)
        journal.close()
        journal, second = growing.open("p", name), Mortal()
        again = searched(name, second, journal)
        journal.close()
        assert (to_record(again[0]), again[1]) == (to_record(whole), choice)
        assert first.asked + second.asked <= policy.asked + 3, "only requests in flight are redone"
        assert journal.replayed > 0 or first.asked == 0


def test_a_finished_search_asks_for_nothing(tmp_path: Path) -> None:
    growing = GrowingTrees(tmp_path / "growing")
    journal = growing.open("p", "s")
    whole, _ = searched("mcts", Mortal(), journal)
    journal.close()
    silent = Mortal(after=0)
    again, _ = searched("mcts", silent, journal := growing.open("p", "s"))
    journal.close()
    assert to_record(again) == to_record(whole)
    assert silent.asked == journal.recorded == 0
    growing.discard("p", "s")
    assert not growing.folder.exists()


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1), rest=st.binary(max_size=20))
def test_a_journal_that_is_cut_off_or_damaged_anywhere_is_used_as_far_as_it_goes(
    tmp_path_factory: pytest.TempPathFactory, share: float, rest: bytes
) -> None:
    growing = GrowingTrees(tmp_path_factory.mktemp("growing"))
    journal = growing.open("p", "s")
    whole, _ = searched("mcts", Mortal(), journal)
    journal.close()
    file = growing.file("p", "s", "jsonl")
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))] + rest)
    journal = growing.open("p", "s")
    again, _ = searched("mcts", Mortal(), journal)
    journal.close()
    assert to_record(again) == to_record(whole)
    assert growing.open("p", "s").recorded == 0, "what was cut off is replaced"


def test_answers_of_other_conditions_are_not_used(tmp_path: Path) -> None:
    for conditions in ("one model", "another model"):
        growing = GrowingTrees(tmp_path, conditions)
        policy = Mortal()
        searched("mcts", policy, journal := growing.open("p", "s"))
        journal.close()
        assert policy.asked > 0
        assert journal.replayed == 0


def test_an_error_that_ends_a_path_is_remembered(tmp_path: Path) -> None:
    class Refusing(Mortal):
        async def propose(
            self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
        ) -> list[Step]:
            if prefix:
                self.asked += 1
                raise RequestError("no")
            return await super().propose(question, prefix, k, seed=seed)

    growing, trees, asked = GrowingTrees(tmp_path), [], []
    for policy in (Refusing(), Refusing()):
        trees.append(to_record(searched("mcts", policy, journal := growing.open("p", "s"))[0]))
        journal.close()
        asked.append(policy.asked)
    assert trees[0] == trees[1]
    assert trees[0]["nodes"][1]["failure"] == "request failed"
    assert asked[0] > asked[1] == 0


def test_equal_requests_of_one_search_have_answers_of_their_own(tmp_path: Path) -> None:
    async def asked_twice(model: ScriptedCompleter, journal: Journal) -> list[str]:
        recorded = RecordedCompleter(model, journal)
        options: dict[str, Any] = {"stop": (), "max_tokens": 9, "temperature": 1.0, "seed": 1}
        return [(await recorded.complete("?", n=1, **options))[0].text for _ in range(2)]

    growing, replies = GrowingTrees(tmp_path), iter("ab")
    first, second = ScriptedCompleter(lambda *_: [next(replies)]), ScriptedCompleter(lambda *_: [])
    for model in (first, second):
        journal = growing.open("p", "s")
        assert asyncio.run(asked_twice(model, journal)) == ["a", "b"]
        journal.close()
    assert len(second.requests) == 0
    assert RecordedCompleter(first, journal).requests is first.requests, "other attributes remain"


def test_a_tree_under_way_can_be_read_by_others(tmp_path: Path) -> None:
    async def grow_slowly() -> list[int]:
        growing, sizes = GrowingTrees(tmp_path), []
        journal = growing.open("p", "mcts@4")
        tree = journal.tree = Tree(PROBLEM.question)
        for number in range(3):
            tree.add(0, Step(prose=f"step {number}"))
            journal.record(journal.key("steps", number), [], tree.cost)
            await asyncio.sleep(0.4)
            (found,) = GrowingTrees(tmp_path).previews()
            assert found[:2] == ("p", "mcts@4")
            sizes.append(len(GrowingTrees(tmp_path).preview("p", "mcts@4")))
        journal.close()
        return sizes

    assert asyncio.run(grow_slowly()) == [2, 3, 4]
    reader = GrowingTrees(tmp_path)
    stamp = reader.stamp()
    reader.file("p", "mcts@4", "tree").write_bytes(zlib.compress(b"[]"))
    assert reader.stamp() != stamp
    assert list(reader.previews()) == []
    with pytest.raises(StoreError):
        reader.preview("p", "mcts@4")


def test_chains_and_runs_under_way_are_in_the_preview(tmp_path: Path) -> None:
    class Watching(Mortal):
        seen = 0

        async def propose(
            self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
        ) -> list[Step]:
            growing.write_preview(journal)
            self.seen = max(self.seen, len(growing.preview("p", "s")) - 1)
            self.kept = len(journal.tree or ()) - 1
            return await super().propose(question, prefix, k, seed=seed)

    for number, name in enumerate(("sc", "runs")):
        growing = GrowingTrees(tmp_path / str(number))
        journal = growing.open("p", "s")
        searched(name, policy := Watching(), journal)
        journal.close()
        assert policy.seen > policy.kept, name
        assert journal.tree is not None
        assert journal.tree.in_progress == []
