"""Runs of parts of the problems, made one."""

import json
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.config import load_config
from rstar_math.errors import ConfigError, InputError, StoreError
from rstar_math.runs.merging import MergeSummary, Shard, merge, pin_shard
from rstar_math.runs.results import run_conditions
from rstar_math.runs.store import RunStore
from rstar_math.search import Choice, Tree
from rstar_math.types import Problem, Question, Step, Verdict

HOW = run_conditions(load_config(), guided=False)
PROBLEMS = [Problem(Question(f"p{9 - i}", f"What is {i}?"), str(i)) for i in range(10)]


def put(store: RunStore, problem: Problem, strategy: str = "mcts", said: str = "It is so") -> None:
    tree = Tree(problem.question)
    tree.add(0, Step(prose=said, kind="answer", answer="0"))
    tree.cost.sampled_tokens = 7
    store.save(strategy, tree, Choice("0", 1, 1.0, {"0": 1.0}), Verdict.RIGHT)


def made(path: Path, shard: Shard | None = None, model: str = "m", done: int = 99) -> Path:
    """A run of all problems or of a part of them, with so many of them searched."""
    with RunStore.open(path, HOW) as store:
        places = None if shard is None else shard.positions(len(PROBLEMS))
        mine = PROBLEMS if places is None else [PROBLEMS[at - 1] for at in places]
        pin_shard(store, shard)
        store.add_problems(mine, places)
        store.require_fact("model", model)
        store.set_default_fact("libraries", json.dumps({"numpy": "2"}))
        for problem in mine[:done]:
            put(store, problem)
            put(store, problem, "greedy")
    return path


def contents(path: Path) -> tuple[object, ...]:
    with RunStore.read(path) as store:
        results = [list(store.results(name)) for name in store.strategies()]
        return store.digest(), store.problems(), store.strategies(), results, store.conditions()


@given(count=st.integers(0, 60), of=st.integers(1, 9))
def test_shards_are_a_partition(count: int, of: int) -> None:
    places = [list(Shard(number, of).positions(count)) for number in range(1, of + 1)]
    assert sorted(at for part in places for at in part) == list(range(1, count + 1))
    assert max(map(len, places)) - min(map(len, places)) <= 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2", "1/2/3", ""])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(ConfigError, match="for example 2/4"):
        Shard.parse(text)
    assert str(Shard.parse("2/4")) == "2/4"


def test_merged_shards_are_the_run_of_the_whole(tmp_path: Path) -> None:
    whole = made(tmp_path / "whole")
    runs = [made(tmp_path / f"s{i}", Shard(i, 3)) for i in (1, 2, 3)]
    out = tmp_path / "out"
    assert merge(out, runs[::-1]) == MergeSummary(10, 20, 20, 0, 0)
    assert contents(out) == contents(whole)
    before = contents(out)
    assert merge(out, runs) == MergeSummary(10, 20, 0, 20, 0)
    assert contents(out) == before
    with RunStore.read(out) as store:
        facts = store.metadata()
        assert "shard" not in facts
        assert (facts["model"], json.loads(facts["libraries"])) == ("m", {"numpy": "2"})


def test_a_merge_goes_on_where_runs_went_on(tmp_path: Path) -> None:
    out, whole = tmp_path / "out", made(tmp_path / "whole")
    first = made(tmp_path / "s1", Shard(1, 2), done=2)
    other = made(tmp_path / "s2", Shard(2, 2))
    merge(out, [first])
    merge(out, [first, other])
    with RunStore.open(first, HOW) as store:
        for problem in store.problems()[2:]:
            put(store, problem)
            put(store, problem, "greedy")
    assert merge(out, [first, other]).added == 6
    assert contents(out)[0] == contents(whole)[0]


def test_runs_that_are_no_shards_follow_each_other(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for path, mine in ((one, PROBLEMS[:6]), (two, PROBLEMS[4:])):
        with RunStore.open(path, HOW) as store:
            store.add_problems(mine)
            for problem in mine:
                put(store, problem, said="It is so" if path == one else "It was so")
    assert merge(tmp_path / "out", [one, two]) == MergeSummary(10, 10, 10, 2, 2)
    with RunStore.read(tmp_path / "out") as store, RunStore.read(one) as first:
        assert store.problems() == PROBLEMS
        assert store.tree("p5", "mcts").nodes == first.tree("p5", "mcts").nodes


def test_what_does_not_belong_together(tmp_path: Path) -> None:
    one = made(tmp_path / "one")
    out = tmp_path / "out"
    merge(out, [one])
    before = contents(out)
    other = tmp_path / "other"
    RunStore.open(other, {**HOW, "search.rollouts": 99}).close()
    with pytest.raises(ConfigError, match=r"other was made with search\.rollouts = 99"):
        merge(out, [one, other])
    with pytest.raises(ConfigError, match=r"the model 'n', .*one with 'm'"):
        merge(out, [one, made(tmp_path / "n", model="n")])
    changed = tmp_path / "changed"
    with RunStore.open(changed, HOW) as store:
        store.add_problems([Problem(Question("p1", "Else?"), "1")])
    with pytest.raises(InputError, match=r"'p1' of .* has another text"):
        merge(out, [changed])
    elsewhere = tmp_path / "elsewhere"
    with RunStore.open(elsewhere, HOW) as store:
        pin_shard(store, Shard(1, 2))
        store.add_problems([Problem(Question("new", "New?"), "1")], [1])
    with pytest.raises(InputError, match=r"Position 1 of .* holds another problem than 'new'"):
        merge(out, [elsewhere])
    with pytest.raises(InputError, match="both OUT and a run"):
        merge(one, [one])
    assert contents(out) == before


def test_a_run_keeps_to_its_shard(tmp_path: Path) -> None:
    path = made(tmp_path / "s", Shard(1, 2))
    with RunStore.open(path, HOW) as store:
        pin_shard(store, Shard(1, 2))
        for other in (None, Shard(2, 2), Shard(1, 3)):
            with pytest.raises(ConfigError, match="with --shard 1/2"):
                pin_shard(store, other)
    with (
        RunStore.open(made(tmp_path / "all"), HOW) as store,
        pytest.raises(ConfigError, match="without --shard"),
    ):
        pin_shard(store, Shard(1, 2))


def test_a_damaged_run_is_said_to_be(tmp_path: Path) -> None:
    path = made(tmp_path / "one")
    db = sqlite3.connect(path)
    db.execute("DELETE FROM meta WHERE key = 'conditions'")
    db.commit()
    db.close()
    with pytest.raises(StoreError, match="one is damaged"):
        merge(tmp_path / "out", [path])
