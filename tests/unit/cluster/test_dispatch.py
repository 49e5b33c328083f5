"""Problems over workers that come and go: nothing lost, nothing doubled, nobody overworked."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rstar_math.distributed.dispatch import MAX_LOSSES, Dispatcher, WorkerLost
from rstar_math.errors import ClusterError, ModelRejectedError, ModelUnreachableError, RstarError
from rstar_math.runs.results import PackedResult, pack_result
from rstar_math.search import Choice, Tree
from rstar_math.search.strategies import Strategy
from rstar_math.types import Problem, Question, Step

STRATEGY = Strategy("mcts")


def problems(count: int) -> list[Problem]:
    return [Problem(Question(f"p{i}", f"What is {i}?"), str(i)) for i in range(count)]


def answered(problem: Problem) -> PackedResult:
    tree = Tree(problem.question)
    tree.add(
        0, Step(prose=f"It is {problem.reference}", kind="answer", answer=problem.reference_text)
    )
    return pack_result("mcts", tree, Choice(problem.reference_text, 1, 1.0, {}), None)


class ScriptedWorker:
    """A worker that takes some turns of the loop for a search, and dies or fails as told."""

    def __init__(self, name: str, room: int = 3, seed: int = 0, dies_after: int | None = None):
        self.name, self.node, self._room = name, f"node-{name}", room
        self._rng = random.Random(seed)
        self._left = dies_after
        self.under_way = self.most = self.begun = 0
        self.error: RstarError | None = None
        self.poison: str | None = None
        self.dead = False

    def capacity(self, strategy: Strategy) -> int:
        return self._room

    async def search(self, problem: Problem, strategy: Strategy, *, guided: bool) -> PackedResult:
        self.begun += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            for _ in range(self._rng.randrange(1, 6)):
                await asyncio.sleep(0)
                if self.dead:
                    raise WorkerLost("it died")
            if self._left is not None:
                self._left -= 1
                self.dead = self._left < 0
            if problem.id == self.poison:
                self.dead = True
            if self.dead:
                raise WorkerLost("it died")
            if self.error is not None:
                raise self.error
            return answered(problem)
        finally:
            self.under_way -= 1


def searched(dispatcher: Dispatcher, given_problems: list[Problem]) -> list[str]:
    """Ids in the order in which they were finished; each with the tree of its own question."""

    async def once() -> list[str]:
        found = []
        async for problem, one in dispatcher.iter_results(given_problems, STRATEGY, guided=False):
            assert one == answered(problem)
            found.append(problem.id)
        return found

    return asyncio.run(asyncio.wait_for(once(), 20))


@given(
    count=st.integers(0, 40),
    deaths=st.lists(st.integers(0, 8), max_size=4),
    room=st.integers(1, 5),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_each_problem_is_finished_once_whoever_dies(
    count: int, deaths: list[int], room: int, seed: int
) -> None:
    dispatcher = Dispatcher()
    workers = [ScriptedWorker(f"m{i}", room, seed + i, after) for i, after in enumerate(deaths)]
    workers.append(ScriptedWorker("steady", room, seed))
    for worker in workers:
        dispatcher.add_worker(worker)
    try:
        found = searched(dispatcher, problems(count))
    except ClusterError:
        assert len(deaths) >= MAX_LOSSES
    else:
        assert Counter(found) == Counter(problem.id for problem in problems(count))
    assert all(worker.most <= room for worker in workers)
    assert all(worker.under_way == 0 for worker in workers)
    progress = dispatcher.progress.as_json()
    assert progress["problems"] == count
    assert sum(worker.begun for worker in workers) == count + progress["searched_again"]


def test_a_worker_that_joins_late_is_given_work_and_one_that_leaves_is_not() -> None:
    dispatcher = Dispatcher()
    first, late = ScriptedWorker("first", 2), ScriptedWorker("late", 2)
    dispatcher.add_worker(first)

    async def once() -> list[str]:
        found = []
        async for problem, _ in dispatcher.iter_results(problems(40), STRATEGY, guided=False):
            found.append(problem.id)
            if len(found) == 10:
                dispatcher.add_worker(late)
            if len(found) == 30:
                dispatcher.remove_worker("first", "spot")
                assert "first" not in dispatcher
                begun = first.begun
        assert first.begun == begun
        return found

    found = asyncio.run(asyncio.wait_for(once(), 20))
    assert sorted(found) == sorted(problem.id for problem in problems(40))
    assert late.begun > 5
    first_stats, _ = dispatcher.progress.as_json()["workers"]
    assert first_stats["left"] == "spot"


def test_few_problems_are_spread_over_all_workers() -> None:
    dispatcher = Dispatcher()
    workers = [ScriptedWorker(f"h{i}", room=8) for i in range(4)]
    for worker in workers:
        dispatcher.add_worker(worker)
    searched(dispatcher, problems(8))
    assert [worker.begun for worker in workers] == [2, 2, 2, 2]


def test_nothing_new_is_begun_while_the_writer_is_busy() -> None:
    begun: list[str] = []

    def source() -> Iterator[Problem]:
        for problem in problems(50):
            begun.append(problem.id)
            yield problem

    async def once() -> None:
        dispatcher = Dispatcher()
        for i in range(2):
            dispatcher.add_worker(ScriptedWorker(f"h{i}", room=3))
        taken = 0
        async for _ in dispatcher.iter_results(source(), STRATEGY, guided=False):
            taken += 1
            for _ in range(30):
                await asyncio.sleep(0)
            assert len(begun) <= taken + 2 * 2 * 3

    asyncio.run(asyncio.wait_for(once(), 20))
    assert len(begun) == 50


def test_a_problem_that_kills_its_workers_is_named() -> None:
    dispatcher = Dispatcher()
    for i in range(MAX_LOSSES + 1):
        worker = ScriptedWorker(f"h{i}", room=1)
        worker.poison = "p3"
        dispatcher.add_worker(worker)
    with pytest.raises(ClusterError, match="'p3'"):
        searched(dispatcher, problems(6))


def test_a_worker_that_cannot_reach_the_model_is_put_aside() -> None:
    dispatcher = Dispatcher()
    cut_off, well = ScriptedWorker("cut off"), ScriptedWorker("well")
    cut_off.error = ModelUnreachableError("no route")
    dispatcher.add_worker(cut_off)
    dispatcher.add_worker(well)
    assert len(searched(dispatcher, problems(20))) == 20
    assert "cut off" not in dispatcher
    assert dispatcher.progress.as_json()["workers"][0]["left"] == "no route"


def test_an_error_of_the_search_ends_it_after_what_was_finished() -> None:
    dispatcher = Dispatcher()
    refused, well = ScriptedWorker("refused", room=1), ScriptedWorker("well", room=1)
    refused.error = ModelRejectedError("bad key")
    dispatcher.add_worker(refused)
    dispatcher.add_worker(well)
    with pytest.raises(ModelRejectedError, match="bad key"):
        searched(dispatcher, problems(20))
    alone = Dispatcher()
    cut_off = ScriptedWorker("alone")
    cut_off.error = ModelUnreachableError("no route")
    alone.add_worker(cut_off)
    with pytest.raises(ModelUnreachableError, match="no route"):
        searched(alone, problems(4))


def test_a_search_that_is_left_ends_what_is_under_way() -> None:
    worker = ScriptedWorker("h", room=4)

    async def once() -> None:
        dispatcher = Dispatcher()
        dispatcher.add_worker(worker)
        found = dispatcher.iter_results(problems(20), STRATEGY, guided=False)
        await anext(found)
        await found.aclose()
        assert worker.under_way == 0
        again = [
            p.id async for p, _ in dispatcher.iter_results(problems(3), STRATEGY, guided=False)
        ]
        assert sorted(again) == ["p0", "p1", "p2"]

    asyncio.run(asyncio.wait_for(once(), 20))


def test_who_is_slow_is_named() -> None:
    dispatcher = Dispatcher()
    for i in range(3):
        dispatcher.add_worker(ScriptedWorker(f"h{i}"))
    with suppress(StopAsyncIteration):
        searched(dispatcher, problems(30))
    workers = dispatcher.progress.workers
    for stats in workers:
        stats.busy_s = 0.1 * stats.done
    workers[1].busy_s *= 30
    workers[2].running["late"] = workers[2].joined_at - 1000
    assert dispatcher.progress.slow_workers() == ["h1"]
    (straggler,) = dispatcher.progress.stragglers()
    assert (straggler["problem"], straggler["worker"]) == ("late", "h2")
    assert "3 workers" in dispatcher.progress.line()
    assert "1 straggler," in dispatcher.progress.line()
