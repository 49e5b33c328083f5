"""The run file: durable, resumable, and plain about what is wrong with it."""

import multiprocessing
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from rstar_math.config import load_config
from rstar_math.errors import ConfigError, InputError, StoreError
from rstar_math.runs.results import run_conditions
from rstar_math.runs.store import RunStore
from rstar_math.search import Choice, Tree, to_record
from rstar_math.types import Execution, ExecutionStatus, Problem, Question, Step, Verdict

HOW = run_conditions(load_config(), guided=False)
PROBLEMS = [Problem(Question(f"p{i}", f"What is {i}?"), str(i)) for i in range(3)]


def tree_of(problem: Problem) -> Tree:
    tree = Tree(problem.question)
    tree.add(0, Step(prose="It is \\boxed{0}", kind="answer", answer="0"))
    tree.cost.sampled_tokens = 7
    return tree


def put(store: RunStore, problem: Problem, verdict: Verdict | None = Verdict.RIGHT) -> None:
    store.save("mcts", tree_of(problem), Choice("0", 1, 1.0, {"0": 1.0}), verdict)


def begun(path: Path, how: Mapping[str, object]) -> None:
    """Leave a run with one result."""
    with RunStore.open(path, how) as store:
        store.add_problems(PROBLEMS)
        put(store, PROBLEMS[0])


def test_what_is_put_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "a.rstar"
    with RunStore.open(path, HOW) as store:
        store.add_problems(PROBLEMS)
        put(store, PROBLEMS[1])
    with RunStore.read(path) as store:
        assert store.problems() == PROBLEMS
        assert store.strategies() == ["mcts"]
        assert store.done("mcts") == {"p1"}
        (result,) = store.results("mcts")
        assert (result.choice.answer, result.verdict, result.cost.sampled_tokens) == (
            "0",
            "right",
            7,
        )
        assert to_record(store.tree("p1", "mcts")) == to_record(tree_of(PROBLEMS[1]))
        with pytest.raises(InputError, match=r"no result of mcts .*'p0'"):
            store.tree("p0", "mcts")


def test_text_that_no_file_can_hold_is_kept_all_the_same(tmp_path: Path) -> None:
    tree = Tree(PROBLEMS[0].question)
    failed = Execution(ExecutionStatus.ERROR, "", "ValueError", "not a digit: \ud835")
    tree.add(0, Step(code="x = '\udc80'\n", execution=failed))
    with RunStore.open(tmp_path / "a.rstar", HOW) as store:
        store.add_problems(PROBLEMS)
        store.save("mcts", tree, Choice(None, None, 0.0, {}))
        step = store.tree("p0", "mcts").nodes[1].step
    assert step is not None
    assert step.execution is not None
    assert (step.execution.message or "").startswith("not a digit: ")


def test_a_question_that_is_no_text_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.rstar"
    begun(path, HOW)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE problems SET question = CAST(x'ff41' AS TEXT)")
    db.close()
    with RunStore.read(path) as store, pytest.raises(StoreError, match="cannot be used"):
        store.problems()


def test_a_run_goes_on_with_more_problems_but_not_with_changed_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.rstar"
    with RunStore.open(path, HOW) as store:
        store.add_problems(PROBLEMS[:2])
        put(store, PROBLEMS[0])
    with RunStore.open(path, HOW) as store:
        store.add_problems(PROBLEMS)
        assert len(store.problems()) == 3
        with pytest.raises(InputError, match=r"'p1' of .* has another text"):
            store.add_problems([Problem(Question("p1", "Else?"), "1")])
        assert len(store.problems()) == 3


def test_results_of_two_configurations_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "a.rstar"
    begun(path, HOW)
    other = run_conditions(
        load_config(None, ["model.url=local", "search.rollouts=99"]), guided=False
    )
    with pytest.raises(ConfigError, match=r"search.rollouts = 5, .* 99"):
        RunStore.open(path, other)
    faster = run_conditions(
        load_config(None, ["model.concurrency=2", "search.parallel_problems=1"]), guided=False
    )
    RunStore.open(path, faster).close()


def test_a_run_that_came_to_no_result_may_become_another(tmp_path: Path) -> None:
    path = tmp_path / "a.rstar"
    with RunStore.open(path, HOW) as store:
        store.add_problems(PROBLEMS)
        store.require_fact("model", "a")
        store.set_default_fact("libraries", "old")
    other, changed = {**HOW, "search.rollouts": 99}, Problem(Question("p1", "Else?"), "1")
    with RunStore.open(path, other) as store:
        store.add_problems([changed])
        store.require_fact("model", "b")
        assert store.problems() == [changed]
        assert store.conditions() == other
        assert "libraries" not in store.metadata()
        store.add_problems(PROBLEMS[:1])
        put(store, PROBLEMS[0])
    with pytest.raises(ConfigError, match=r"search.rollouts = 99, .* 5"):
        RunStore.open(path, HOW)


def test_a_result_is_kept_once(tmp_path: Path) -> None:
    with RunStore.open(tmp_path / "a.rstar", HOW) as store:
        store.add_problems(PROBLEMS)
        put(store, PROBLEMS[0])
        with pytest.raises(StoreError):
            put(store, PROBLEMS[0])


def hold(path: Path, ready: "multiprocessing.synchronize.Event") -> None:
    with RunStore.open(path, HOW):
        ready.set()
        multiprocessing.Event().wait()


def test_one_writer_at_a_time_and_a_dead_one_does_not_block(tmp_path: Path) -> None:
    path = tmp_path / "a.rstar"
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Event()
    other = spawn.Process(target=hold, args=(path, ready))
    other.start()
    assert ready.wait(60)
    with pytest.raises(StoreError, match="Another process is writing"):
        RunStore.open(path, HOW)
    RunStore.read(path).close()
    other.kill()
    other.join()
    RunStore.open(path, HOW).close()


def test_files_that_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no run"):
        RunStore.read(tmp_path / "absent")
    text = tmp_path / "text"
    text.write_text("I am not a database at all, but long enough to look like one." * 20)
    with pytest.raises(StoreError, match="not a run of rstar-math"):
        RunStore.read(text)
    with pytest.raises(StoreError, match="not a run of rstar-math"):
        RunStore.open(text, HOW)
    other = tmp_path / "other.db"
    db = sqlite3.connect(other)
    db.execute("CREATE TABLE t (x)")
    db.commit()
    db.close()
    with pytest.raises(StoreError, match="not a run of rstar-math"):
        RunStore.read(other)
    with pytest.raises(StoreError, match="not a run of rstar-math"):
        RunStore.open(other, HOW)
    with pytest.raises(StoreError, match="cannot be written"):
        RunStore.open(text / "below" / "a.rstar", HOW)


def test_a_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a folder"):
        RunStore.read(tmp_path)
    with pytest.raises(StoreError, match="is a folder"):
        RunStore.open(tmp_path, {})


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({"search.candidates": 8}, {"search.candidates": 2}, "--set search.candidates=8, or"),
        ({"policy.prompt": "trained"}, {"policy.prompt": "few-shot"}, "policy.prompt=trained, or"),
        ({}, {"search.token_budget": 5}, "remove search.token_budget, or"),
        ({"guided": True}, {"guided": False}, "add --guided, or"),
    ],
)
def test_the_way_back_can_be_typed(
    tmp_path: Path, before: dict[str, object], now: dict[str, object], told: str
) -> None:
    begun(tmp_path / "run.rstar", before)
    with pytest.raises(ConfigError, match=told):
        RunStore.open(tmp_path / "run.rstar", now)


def test_a_run_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.rstar"
    RunStore.open(path, HOW).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 77")
    db.commit()
    db.close()
    with pytest.raises(StoreError, match="format 77"):
        RunStore.open(path, HOW)


def test_a_link_to_a_run_is_the_same_run(tmp_path: Path) -> None:
    path, link = tmp_path / "a.rstar", tmp_path / "b.rstar"
    with RunStore.open(path, HOW):
        link.symlink_to(path)
        with pytest.raises(StoreError, match="Another process is writing"):
            RunStore.open(link, HOW)


def test_a_foreign_database_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE t (x)")
    db.commit()
    db.close()
    before = path.read_bytes()
    doors: list[Callable[[], RunStore]] = [
        lambda: RunStore.read(path),
        lambda: RunStore.open(path, HOW),
    ]
    for door in doors:
        with pytest.raises(StoreError, match="not a run"):
            door()
    assert path.read_bytes() == before


def test_a_run_that_is_damaged_anywhere_is_an_error_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "a.rstar"
    with RunStore.open(path, HOW) as store:
        store.add_problems(PROBLEMS)
        for problem in PROBLEMS:
            put(store, problem)
    whole = path.read_bytes()
    outcomes = set()
    for page in range(len(whole) // 4096):
        at = page * 4096
        path.write_bytes(whole[:at] + b"\xa5" * 4096 + whole[at + 4096 :])
        try:
            with RunStore.read(path) as store:
                for problem in store.problems():
                    store.tree(problem.id, "mcts")
                list(store.results("mcts"))
                store.conditions()
            outcomes.add("unharmed")
        except (StoreError, InputError):
            outcomes.add("error")
    assert "error" in outcomes


def test_an_option_that_came_later_does_not_lock_an_old_run(tmp_path: Path) -> None:
    path = tmp_path / "a.rstar"
    begun(path, HOW)
    later = {**HOW, "search.novelty": 3}
    RunStore.open(path, later, {"search.novelty": 3}).close()
    with pytest.raises(ConfigError, match=r"search\.novelty = 3, .* 4"):
        RunStore.open(path, {**HOW, "search.novelty": 4}, {"search.novelty": 3})


def test_the_model_of_a_run_is_pinned(tmp_path: Path) -> None:
    with RunStore.open(tmp_path / "a.rstar", HOW) as store:
        store.require_fact("model", "a")
        store.require_fact("model", "a")
        with pytest.raises(ConfigError, match=r"'a', .* 'b'"):
            store.require_fact("model", "b")


def test_a_damaged_tree_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.rstar"
    with RunStore.open(path, HOW) as store:
        store.add_problems(PROBLEMS)
        put(store, PROBLEMS[0])
    db = sqlite3.connect(path)
    db.execute("UPDATE results SET tree = x'00'")
    db.commit()
    db.close()
    with RunStore.read(path) as store, pytest.raises(StoreError, match="tree of 'p0'"):
        store.tree("p0", "mcts")


def test_another_preset_is_named_as_one_and_not_option_by_option(tmp_path: Path) -> None:
    begun(tmp_path / "run.rstar", {**HOW, "a.x": 1, "a.y": 1, "a.z": 1})
    with pytest.raises(ConfigError, match="2 more options differ"):
        RunStore.open(tmp_path / "run.rstar", {**HOW, "a.x": 2, "a.y": 2, "a.z": 2})
