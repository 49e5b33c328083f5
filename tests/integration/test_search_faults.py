"""Whole searches over HTTP against a model server that fails: trees stay valid, failures are
counted with their reason, and what does not depend on the failed request goes on."""

import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from rstar_math.config import Config, load_config
from rstar_math.errors import ModelUnreachableError
from rstar_math.search import ROOT, Tree, from_record, to_record
from rstar_math.seeding import derive
from rstar_math.solver.solver import Solver
from rstar_math.testing import FakeServer, Fault, serving
from rstar_math.types import Cost, Problem, Question
from tests.unit.toy import DirectExecutor

PROBLEMS = [Problem(Question(f"p{i}", f"Task {i}: add 3, 5 and 7."), "15") for i in range(8)]
K = 4


def answer(body: Mapping[str, Any]) -> list[str]:
    """A running sum, a step a number, sometimes off by a little; then what was printed."""
    prompt = body["prompt"]
    if prompt.endswith("</output>\n"):
        said = prompt.rsplit("<output>\n", 1)[1].split("\n")[0]
        return [f"It is \\boxed{{{said}}}.\n<answer/>"] * body["n"]
    done = prompt.count("<step/>")
    rng = random.Random(derive(body["seed"], prompt))
    texts = []
    for _ in range(body["n"]):
        code = f"s {'+' if done else ''}= {(3, 5, 7)[done] + rng.choice((0, 0, 1, 2))}\n"
        texts.append(f"# Add.\n{code}" + ("print(s)\n<code/>" if done == 2 else "<step/>"))
    return texts


def config(fake: FakeServer, *settings: str) -> Config:
    return load_config(
        None,
        [
            "search.rollouts=6",
            f"search.candidates={K}",
            "search.max_depth=8",
            "search.parallel_problems=4",
            "policy.prompt=trained",
            "grading.workers=1",
            *settings,
        ],
        model=fake.url,
    )


def solver(fake: FakeServer, *settings: str) -> Solver:
    return Solver(config(fake, *settings), executor=DirectExecutor())


async def mapped(open_solver: Solver, problems: Sequence[Problem] = PROBLEMS) -> list[Tree]:
    """The trees of a map, in the order in which they were finished; all of them valid."""
    trees = [found.tree async for _, found in open_solver.map(problems)]
    for tree in trees:
        check(tree)
    return trees


def searched(fake: FakeServer, *settings: str) -> list[Tree]:
    async def once() -> list[Tree]:
        async with solver(fake, *settings) as open_solver:
            return await mapped(open_solver)

    return asyncio.run(once())


def check(tree: Tree) -> None:
    """What holds for every tree at every moment, and that its record gives it back."""
    record = to_record(tree)
    assert to_record(from_record(json.loads(json.dumps(record)))) == record
    below = [0] * len(tree)
    for end in tree.answer_nodes():
        for index in (ROOT, *tree.path(end)):
            below[index] += 1
    for index, node in enumerate(tree):
        assert node.visits == below[index]
        assert sum(tree.nodes[child].count for child in node.children) <= K
        assert node.expanded or not node.children
        ended = node.answered or node.failure is not None
        all_closed = node.expanded and all(tree.nodes[child].closed for child in node.children)
        assert node.closed == (ended or all_closed)
        assert not (ended and node.children)


def records(trees: Sequence[Tree]) -> dict[str, object]:
    return {tree.question.id: to_record(tree) for tree in trees}


def undisturbed() -> dict[str, object]:
    with serving(answer) as fake:
        return records(searched(fake))


def test_a_server_that_dies_and_comes_back_changes_no_tree() -> None:
    async def once() -> list[Tree]:
        with ExitStack() as first:
            fake = first.enter_context(serving(answer, delay_s=0.02))
            async with solver(fake) as open_solver:
                search = asyncio.create_task(mapped(open_solver))
                while len(fake.requests) < 12:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
                await asyncio.to_thread(first.close)
                await asyncio.sleep(0.3)
                assert not search.done()
                with serving(answer, port=fake.port) as second:
                    trees = await search
                    assert second.requests
                return trees

    trees = asyncio.run(once())
    assert records(trees) == undisturbed()
    cost = Cost.total(tree.cost for tree in trees)
    assert cost.retries > 0
    assert cost.failures == 0


def gone_on(fault: Fault, error: type[Exception], *settings: str) -> Tree:
    """A tree whose third request failed for good, then searched further."""

    async def once() -> Tree:
        tree = Tree(PROBLEMS[0].question)
        with serving(answer) as fake:
            fake.fault_for = lambda body: fault if len(fake.requests) > 2 else None
            async with solver(fake, *settings) as open_solver:
                with pytest.raises(error):
                    await open_solver.solve(tree.question, tree=tree)
                check(tree)
                assert len(tree) > 1
                assert tree.rollouts < 6
                fake.fault_for = None
                solution = await open_solver.solve(tree.question, tree=tree)
        assert solution.answer is not None
        check(tree)
        return tree

    return asyncio.run(once())


def test_a_tree_that_a_dead_server_cut_short_can_go_on() -> None:
    tree = gone_on("drop", ModelUnreachableError, "model.max_retries=1")
    assert (tree.cost.failures, tree.cost.retries) == (1, 1)


def test_a_tree_that_garbage_cut_short_can_go_on() -> None:
    gone_on("garbage", ModelUnreachableError)


def for_task(number: int, fault: Fault, fake: FakeServer) -> None:
    """Have every second request for one task fail."""
    seen = [0]

    def fault_for(body: Mapping[str, Any]) -> Fault | None:
        if f"Task {number}:" not in body["prompt"]:
            return None
        seen[0] += 1
        return fault if seen[0] % 2 == 0 else None

    fake.fault_for = fault_for


@pytest.mark.parametrize("fault", ["garbage", "empty", 400])
def test_garbage_for_one_task_is_data(fault: Fault) -> None:
    with serving(answer) as fake:
        for_task(3, fault, fake)
        trees = searched(fake)
    assert len(trees) == len(PROBLEMS)
    hit = next(tree for tree in trees if tree.question.id == "p3")
    assert hit.failures() or hit.cost.failures or hit.cost.retries
    assert {k: v for k, v in records(trees).items() if k != "p3"} == {
        k: v for k, v in undisturbed().items() if k != "p3"
    }


def test_a_request_that_always_fails_is_data() -> None:
    with serving(answer) as fake:
        fake.fault_for = lambda body: 500 if "Task 3:" in body["prompt"] else None
        trees = searched(fake, "model.max_retries=1")
    assert {tree.question.id for tree in trees} >= {p.id for p in PROBLEMS} - {"p3"}


def test_a_full_context_ends_a_path_and_nothing_else() -> None:
    """Prompts of the third step do not fit any more, in one task."""
    with serving(answer) as fake:
        fake.fault_for = lambda body: (
            "context"
            if "Task 3:" in body["prompt"] and body["prompt"].count("<step/>") == 2
            else None
        )
        trees = searched(fake)
    assert len(trees) == len(PROBLEMS)
    for tree in trees:
        if tree.question.id == "p3":
            assert set(tree.failures()) == {"context exceeded"}
            assert tree.failures()["context exceeded"] >= 2
        else:
            assert not tree.failures()


@pytest.mark.parametrize("given", [1, 3])
def test_fewer_samples_than_asked_are_made_up_for(given: int) -> None:
    with serving(lambda body: answer(body)[:given]) as fake:
        trees = searched(fake)
    for tree in trees:
        assert sum(tree.nodes[child].count for child in tree.nodes[ROOT].children) == K
        assert not tree.failures()


def test_no_samples_end_a_path() -> None:
    with serving(lambda body: [] if "Task 3:" in body["prompt"] else answer(body)) as fake:
        trees = searched(fake)
    failures = {tree.question.id: tree.failures() for tree in trees}
    assert failures.pop("p3") == {"no next step": 1}
    assert not any(failures.values())


def test_a_server_that_repeats_itself_has_one_child_a_node() -> None:
    with serving(lambda body: answer({**body, "n": 1}) * body["n"]) as fake:
        trees = searched(fake)
    for tree in trees:
        assert [node.count for node in tree][1:] == [K] * 4
        assert tree.nodes[ROOT].closed
        assert (tree.rollouts, len(tree.answer_nodes())) == (1, 1)


@pytest.mark.parametrize(
    ("said", "failure", "counted"),
    [
        ("word " * 5000, "no next step", "truncated"),
        ("# again and again and\n" * 5000, "no next step", "truncated"),
        ("no step at all<answer", "no next step", "malformed"),
        ("# Again.\nx = 1\n<step/>", "too deep", None),
    ],
)
def test_a_server_that_never_comes_to_an_end(said: str, failure: str, counted: str | None) -> None:
    with serving(lambda body: [said] * body["n"]) as fake:
        trees = searched(fake)
    assert len(trees) == len(PROBLEMS)
    for tree in trees:
        assert tree.failures() == {failure: 1}
        assert tree.nodes[ROOT].closed
        assert counted is None or getattr(tree.cost, counted) == K
        assert tree.cost.sampled_tokens <= 192 * K * tree.cost.calls


def test_one_slow_tree_holds_up_nobody() -> None:
    """The first task's requests take 0.25 s each; all others are done before it."""

    def slow(body: Mapping[str, Any]) -> list[str]:
        if "Task 0:" in body["prompt"]:
            time.sleep(0.25)
        return answer(body)

    with serving(slow) as fake:
        trees = searched(fake)
    assert [tree.question.id for tree in trees][-1] == "p0"
    assert records(trees) == undisturbed()


def test_a_stalled_request_is_sent_again() -> None:
    stalled: list[Mapping[str, Any]] = []

    def fault_for(body: Mapping[str, Any]) -> Fault | None:
        if "Task 2:" in body["prompt"] and not stalled:
            stalled.append(body)
            return "stall"
        return None

    with serving(answer) as fake:
        fake.fault_for = fault_for
        trees = searched(fake, "model.timeout_s=0.5")
    assert stalled
    assert records(trees) == undisturbed()
    assert Cost.total(tree.cost for tree in trees).retries >= 1
