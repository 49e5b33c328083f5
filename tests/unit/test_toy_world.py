"""The toy world: its closed forms against what searches find, and the searches against them."""

import asyncio
import json
import re
from collections.abc import Sequence
from statistics import fmean

import pytest

from rstar_math.config import SearchConfig
from rstar_math.costs import track_cost
from rstar_math.errors import ConfigError, InputError
from rstar_math.prompts import TAGS
from rstar_math.protocols import Scorer
from rstar_math.search import ROOT, SearchComponents, Tree, grow, sample_chains, to_record
from rstar_math.testing import ToyWorld
from rstar_math.types import ExecutionStatus, Problem, Step, Verdict
from tests.unit.toy import DirectExecutor

WORLD = ToyWorld()
PROBLEM = WORLD.problems(1)[0]
SMALL = ToyWorld(steps=2, wordings=1)


def grown(
    world: ToyWorld,
    problem: Problem,
    config: SearchConfig,
    *,
    scorer: Scorer | None = None,
    tree: Tree | None = None,
) -> Tree:
    """A tree of the sampling policy; guided by the verifier unless a scorer is given."""
    tree = tree or Tree(problem.question)
    search = grow(
        tree,
        policy=world.policy,
        executor=world.executor,
        scorer=scorer,
        verifier=None if scorer else world.verifier(problem),
        config=config,
    )
    asyncio.run(search)
    return tree


def whole(world: ToyWorld, problem: Problem, rollouts: int, tree: Tree | None = None) -> Tree:
    """A tree in which every node has all its options."""
    tree = tree or Tree(problem.question)
    search = grow(
        tree,
        policy=world.exhaustive_policy,
        executor=world.executor,
        verifier=world.verifier(problem),
        config=SearchConfig(rollouts=rollouts, candidates=world.max_children),
    )
    asyncio.run(search)
    return tree


def samples(world: ToyWorld, prefix: Sequence[Step], k: int, seed: int = 0) -> list[Step]:
    question = world.problems(1)[0].question
    return asyncio.run(world.policy.propose(question, prefix, k, seed=seed))


@pytest.mark.parametrize(
    "world",
    [
        WORLD,
        ToyWorld(steps=2, right=0.4, slip=0.1, trap=0.1, fails=0.1, dead=0.0),
        ToyWorld(steps=3, right=0.7, slip=0.3, trap=0.0, fails=0.0, dead=0.0, wordings=1),
    ],
)
def test_value_is_the_mean_of_random_chains(world: ToyWorld) -> None:
    problem, n = world.problems(1)[0], 1000
    tree = Tree(problem.question)
    asyncio.run(
        sample_chains(
            tree,
            n,
            parts=SearchComponents(world.policy, world.executor),
            config=SearchConfig(seed=3),
        )
    )
    answers = [tree.nodes[end].step for end in tree.answer_nodes()]
    right = sum(step is not None and step.answer == problem.reference for step in answers)
    share = ((world.value() or 0.0) + 1) / 2
    bound = 3.5 * (share * (1 - share) / len(answers)) ** 0.5
    assert right / len(answers) == pytest.approx(share, abs=bound)
    # Where a first sample holds no step there is no chain, so those are missing from the rate.
    rate = world.pass_rate()
    bound = 3.5 * (rate * (1 - rate) / n) ** 0.5
    assert right / n == pytest.approx(rate, abs=bound)


@pytest.mark.parametrize(
    "world", [SMALL, ToyWorld(steps=3, wordings=1), ToyWorld(steps=2), ToyWorld(steps=1)]
)
def test_every_q_of_an_exhausted_tree_is_the_closed_form(world: ToyWorld) -> None:
    problem = world.problems(3)[2]
    tree = whole(world, problem, 10_000)
    assert tree.nodes[ROOT].closed
    assert set(tree.failures()) == {"code failed", "no next step"}
    for index, node in enumerate(tree):
        prefix = tree.prefix(index)
        assert node.q == world.value(prefix, k=None)
        if node.q is not None:
            reached = any(tree.nodes[end].verdict is Verdict.RIGHT for end in below(tree, index))
            assert world.best_value(prefix) == (1.0 if reached else -1.0)


def below(tree: Tree, index: int) -> list[int]:
    """The answers at or below a node."""
    return [end for end in tree.answer_nodes() if index in (ROOT, *tree.path(end))]


@pytest.mark.parametrize("k", [1, 2, 6])
def test_value_with_k_samples_is_the_mean_over_exhausted_trees(k: int) -> None:
    world = ToyWorld(steps=2)
    config = SearchConfig(rollouts=1000, candidates=k)
    roots = [grown(world, p, config).nodes[ROOT] for p in world.problems(1200 // k)]
    assert all(root.closed for root in roots)
    mean = sum(root.value_sum for root in roots) / sum(root.visits for root in roots)
    assert mean == pytest.approx(world.value(k=k), abs=0.06)


def test_the_error_of_q_falls_as_rollouts_rise() -> None:
    world = ToyWorld(steps=3, right=0.6, slip=0.0, trap=0.2, fails=0.1, dead=0.1)
    trees = {problem: Tree(problem.question) for problem in world.problems(6)}
    errors: dict[int, float] = {}
    for rollouts in (8, 64, 512):
        for problem, tree in trees.items():
            whole(world, problem, rollouts - tree.rollouts, tree)
        errors[rollouts] = root_error(list(trees.values()), world.value(k=None))
    assert errors[8] > 2 * errors[64] > errors[512] == 0.0


def test_the_error_of_q_falls_with_a_model_that_samples() -> None:
    """Not to 0: what is left is that each tree has drawn options of its own."""
    world = ToyWorld(steps=3)
    trees = {problem: Tree(problem.question) for problem in world.problems(30)}
    errors: dict[int, float] = {}
    for rollouts in (8, 64, 512):
        for problem, tree in trees.items():
            grown(world, problem, SearchConfig(rollouts=rollouts - tree.rollouts), tree=tree)
        errors[rollouts] = root_error(list(trees.values()), world.value(k=8))
    assert errors[8] > 1.2 * errors[64] > 1.2 * errors[512] > 0.0


def root_error(trees: Sequence[Tree], value: float | None) -> float:
    """Mean distance of the roots' Q from a value; of those that have one."""
    assert value is not None
    known = [tree.nodes[ROOT].q for tree in trees]
    return fmean(abs(q - value) for q in known if q is not None)


def test_a_search_guided_by_answers_finds_the_right_one() -> None:
    for problem in WORLD.problems(10):
        tree = grown(WORLD, problem, SearchConfig(rollouts=64))
        best = max(tree.answer_nodes(), key=lambda end: tree.nodes[end].q or 0.0)
        assert tree.trajectory(best).answer == problem.reference
        assert WORLD.best_value(tree.prefix(best)) == WORLD.best_value() == 1.0


def test_a_search_guided_by_the_scorer_finds_the_right_one() -> None:
    for problem in WORLD.problems(10):
        config = SearchConfig(rollouts=64)
        tree = grown(WORLD, problem, config, scorer=WORLD.scorer())
        best = max(tree.answer_nodes(), key=lambda end: tree.nodes[end].q or 0.0)
        assert tree.trajectory(best).answer == problem.reference
        assert tree.cost.scorer_tokens > tree.cost.sampled_tokens


def test_traps_cost_a_scorer_that_does_not_see_them() -> None:
    world = ToyWorld(steps=5)
    found = {0: 0, 2: 0}
    for blind in found:
        for problem in world.problems(20):
            scorer = world.scorer(blind_steps=blind)
            tree = grown(world, problem, SearchConfig(rollouts=4), scorer=scorer)
            answers = [tree.trajectory(end).answer for end in tree.answer_nodes()]
            found[blind] += problem.reference in answers
    assert found[0] > 2 * found[2]


def test_the_same_seed_gives_the_same_tree() -> None:
    def text(seed: int, scorer_seed: int = 0) -> str:
        config = SearchConfig(rollouts=12, seed=seed)
        scorer = WORLD.scorer(seed=scorer_seed)
        return json.dumps(to_record(grown(WORLD, PROBLEM, config, scorer=scorer)))

    assert text(0) == text(0)
    assert len({text(0), text(1), text(0, 1)}) == 3


def test_the_policy_writes_what_a_model_would_have_written() -> None:
    """Read by the real grammar, in model-like lengths, with repeats, and it runs as it says."""
    steps = samples(WORLD, (), 64)
    assert 10 < len(set(steps)) < 40
    assert all(15 <= len(step.text.split()) <= 40 for step in steps)
    assert TAGS.parse(TAGS.render(steps[:1])) == steps[:1]
    toy, python = WORLD.executor, DirectExecutor()
    for step in set(samples(SMALL, (), 64)) | set(steps):
        for then in samples(WORLD, (step,), 4):
            expected = asyncio.run(python.run((step,), then))
            assert asyncio.run(toy.run((step,), then)) == expected


def test_the_shares_of_what_is_sampled() -> None:
    world = ToyWorld(right=0.5, slip=0.2, trap=0.1, fails=0.05, dead=0.05)
    with track_cost() as cost:
        steps = samples(world, (), 4000)
    forms = {"2 \\*": 0.1, "/|total|str": 0.05, "rest": 0.05}
    for form, share in forms.items():
        found = sum(bool(re.search(form, step.code)) for step in steps)
        assert found / 4000 == pytest.approx(share, abs=0.015)
    assert cost.malformed / 4000 == pytest.approx(0.1, abs=0.02)
    assert (cost.calls, cost.samples) == (1, 4000)
    assert len(steps) == 4000 - cost.malformed


def test_values_by_hand() -> None:
    world = ToyWorld(steps=2, right=0.5, slip=0.25, trap=0.0, fails=0.25, dead=0.0, wordings=1)
    assert world.value() == pytest.approx(2 * (2 / 3) ** 2 - 1)
    # Of four options at a node that lead on, one is right and three are slips.
    assert world.value(k=None) == 2 / 16 - 1
    assert world.pass_rate() == 0.25
    tree = whole(world, world.problems(1)[0], 100)
    for index in tree.nodes[ROOT].children:
        prefix = tree.prefix(index)
        if prefix[-1].failed:
            assert (world.value(prefix), world.best_value(prefix)) == (None, -1.0)
        elif world.best_value(prefix) > 0:
            assert world.value(prefix) == pytest.approx(1 / 3)
        else:
            assert (world.value(prefix), world.pass_rate(prefix)) == (-1.0, 0.0)
    hopeless = ToyWorld(right=0.0, slip=0.0, trap=0.0, fails=1.0, dead=0.0)
    assert (hopeless.value(), hopeless.best_value()) == (None, -1.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"right": 0.9}, "add up to 1.35"),
        ({"slip": -0.1}, "slip = -0.1"),
        ({"steps": 0}, "steps = 0"),
        ({"wordings": 4}, "wordings = 4"),
    ],
)
def test_chances_that_will_not_do(change: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ToyWorld(**change)  # type: ignore[arg-type]


def test_what_is_not_of_the_world_is_refused() -> None:
    with pytest.raises(ConfigError, match="21"):
        asyncio.run(WORLD.exhaustive_policy.propose(PROBLEM.question, (), 8, seed=0))
    with pytest.raises(InputError, match="another policy"):
        WORLD.value((Step(code="x = 1\n"),))
    with pytest.raises(InputError, match="4 numbers"):
        asyncio.run(SMALL.policy.propose(PROBLEM.question, (), 8, seed=0))
    with pytest.raises(InputError, match="no reference"):
        WORLD.verifier(Problem(PROBLEM.question))
    run = asyncio.run(WORLD.executor.run((), Step(code="import os\n")))
    assert (run.status, run.error_type) == (ExecutionStatus.ERROR, "SyntaxError")
