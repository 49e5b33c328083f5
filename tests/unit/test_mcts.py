"""The search: its invariants, its values, its repeatability, and what it does when things go
wrong."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.config import SearchConfig
from rstar_math.errors import ContextLengthError, ModelError, ModelUnreachableError
from rstar_math.protocols import Policy, Scorer, Verifier
from rstar_math.search import ROOT, SearchComponents, Tree, grow, sample_chains, to_record
from rstar_math.search.selection import ChildStats, puct, uct, uct_zero
from rstar_math.testing import ScriptedPolicy
from rstar_math.types import Question, Step, Verdict
from tests.unit.toy import QUESTION, DirectExecutor, Equals, script

CONFIG = SearchConfig(rollouts=12, candidates=6)


def grown(
    config: SearchConfig = CONFIG,
    *,
    policy: Policy | None = None,
    verifier: Verifier | None = None,
    scorer: Scorer | None = None,
    pause_s: float = 0.0,
    tree: Tree | None = None,
) -> Tree:
    tree = tree or Tree(QUESTION)
    asyncio.run(
        grow(
            tree,
            policy=policy or ScriptedPolicy(script),
            executor=DirectExecutor(pause_s),
            verifier=verifier,
            scorer=scorer,
            config=config,
        )
    )
    return tree


class Shrinking:
    """A scorer that trusts longer paths less."""

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        return [0.5 - 0.1 * len(prefix) for prefix in prefixes]


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 20), st.booleans())
def test_visits_are_the_ends_below_and_a_first_score(
    seed: int, k: int, rollouts: int, scored: bool
) -> None:
    config = SearchConfig(rollouts=rollouts, candidates=k, seed=seed)
    tree = grown(config, verifier=Equals("17"), scorer=Shrinking() if scored else None)
    ends = [tree.path(end) for end in tree.answer_nodes()]
    for index, node in enumerate(tree):
        below = [tree.nodes[child] for child in node.children]
        first = int(scored and index != ROOT and not node.answered and node.failure is None)
        assert node.visits == first + sum(index in (ROOT, *path) for path in ends)
        assert node.q is None or -1 <= node.q <= 1
        assert node.closed or not below or not all(child.closed for child in below)
        if index != ROOT:
            assert index in tree.nodes[node.parent].children


def test_ends_are_worth_what_the_verifier_says() -> None:
    verifier = Equals("17")
    tree = grown(SearchConfig(rollouts=60, candidates=4), verifier=verifier)
    ends = [tree.nodes[end] for end in tree.answer_nodes()]
    assert verifier.asked == len(ends) > 3
    for node in ends:
        assert node.step is not None
        right = node.step.answer == "17"
        assert (node.verdict, node.q) == ((Verdict.RIGHT, 1.0) if right else (Verdict.WRONG, -1.0))
    assert {node.verdict for node in ends} == {Verdict.RIGHT, Verdict.WRONG}
    root = tree.nodes[ROOT]
    assert root.q == pytest.approx(sum(node.value_sum for node in ends) / len(ends))


def test_an_undecided_end_is_not_backed_up() -> None:
    class Undecided:
        async def judge(self, answer: str) -> Verdict:
            return Verdict.UNKNOWN

    tree = grown(verifier=Undecided())
    assert tree.answer_nodes()
    assert tree.nodes[ROOT].visits == 0


def test_the_search_prefers_the_better_branch() -> None:
    tree = grown(SearchConfig(rollouts=60, candidates=6, exploration=0.5), verifier=Equals("17"))
    first = [tree.nodes[child] for child in tree.nodes[ROOT].children]
    visited = [node for node in first if node.q is not None]
    best = max(visited, key=lambda node: node.q or -1)
    worst = min(visited, key=lambda node: node.q or 1)
    assert best.q is not None
    assert worst.q is not None
    assert best.q > worst.q
    assert best.visits > worst.visits


@pytest.mark.parametrize("pause_s", [0.0, 0.0005])
def test_the_same_seed_gives_the_same_tree_whatever_the_timing(pause_s: float) -> None:
    assert to_record(grown(pause_s=pause_s)) == to_record(grown())
    other = grown(SearchConfig(rollouts=12, candidates=6, seed=1))
    assert to_record(other) != to_record(grown())


def test_growing_in_two_goes_is_growing_in_one() -> None:
    half = grown(SearchConfig(rollouts=6, candidates=6))
    whole = grown(SearchConfig(rollouts=6, candidates=6), tree=half)
    assert json.dumps(to_record(whole)) == json.dumps(to_record(grown()))


def test_repeated_samples_are_one_node() -> None:
    def same(question: Question, prefix: Sequence[Step], k: int, seed: int) -> list[str]:
        return ["x = 1\n<step/>"] * 3 + ["x = 2\n<step/>"]

    tree = grown(SearchConfig(rollouts=1, candidates=4, max_depth=1), policy=ScriptedPolicy(same))
    assert [node.count for node in tree.nodes[1:]] == [3, 1]
    assert tree.failures() == {"too deep": 2}
    assert tree.nodes[ROOT].closed


def test_code_that_fails_ends_a_path_after_as_many_failures_as_allowed() -> None:
    def broken(question: Question, prefix: Sequence[Step], k: int, seed: int) -> list[str]:
        return [f"x = {len(prefix)} / 0\n<step/>"]

    once = grown(SearchConfig(max_code_errors=1), policy=ScriptedPolicy(broken))
    twice = grown(SearchConfig(max_code_errors=2), policy=ScriptedPolicy(broken))
    assert (len(once) - 1, once.failures()) == (1, {"code failed": 1})
    assert (len(twice) - 1, twice.failures()) == (2, {"code failed": 1})
    assert once.cost.code_failures == 1


def test_a_policy_with_nothing_to_say_ends_the_path() -> None:
    def silent(question: Question, prefix: Sequence[Step], k: int, seed: int) -> list[str]:
        return [] if prefix else ["x = 1\n<step/>"]

    tree = grown(policy=ScriptedPolicy(silent))
    assert tree.failures() == {"no next step": 1}
    assert tree.rollouts == 1
    assert not tree.answer_nodes()


def test_a_full_context_ends_the_path_and_a_dead_server_the_search() -> None:
    class Failing:
        def __init__(self, error: Exception) -> None:
            self.error = error

        async def propose(
            self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
        ) -> list[Step]:
            if prefix:
                raise self.error
            return [Step(code="s = 3\n"), Step(code="s = 4\n")]

    tree = grown(policy=Failing(ContextLengthError("full")))
    assert tree.failures() == {"context exceeded": 2}
    half = Tree(QUESTION)
    with pytest.raises(ModelUnreachableError):
        grown(policy=Failing(ModelUnreachableError("gone")), tree=half)
    assert len(half) == 3
    assert not half.nodes[1].expanded
    assert grown(tree=half).answer_nodes()


def test_a_scorer_gives_first_values_and_ends() -> None:
    tree = grown(SearchConfig(rollouts=2, candidates=4), scorer=Shrinking())
    for end in tree.answer_nodes():
        node = tree.nodes[end]
        assert node.q == node.score == pytest.approx(0.5 - 0.1 * node.depth)
    fresh = next(n for n in tree.nodes[1:] if not n.closed and not n.expanded)
    assert (fresh.visits, fresh.q) == (1, fresh.score)


def test_selection_formulas_by_hand() -> None:
    seen, fresh = ChildStats(0.5, 4, 0.25), ChildStats(None, 0, 0.25)
    assert uct(seen, 16, 2.0) == pytest.approx(0.5 + 2 * (2.772588722 / 4) ** 0.5)
    assert uct(fresh, 16, 2.0) == float("inf")
    assert uct_zero(fresh, 16, 2.0) == 0.0
    assert uct_zero(seen, 16, 2.0) == uct(seen, 16, 2.0)
    assert puct(seen, 16, 2.0) == pytest.approx(0.5 + 2 * 0.25 * 4 / 5)
    assert puct(fresh, 16, 2.0) == pytest.approx(2 * 0.25 * 4)


def test_the_references_rule_stays_on_its_first_path() -> None:
    config = SearchConfig(rollouts=3, candidates=4, selection="uct-zero")
    tree = grown(config)
    children = [tree.nodes[child] for child in tree.nodes[ROOT].children]
    assert len(children) > 2
    assert sum(child.expanded for child in children) == 1


def test_a_branch_that_only_fails_does_not_hold_the_search() -> None:
    """Walks that come to nothing count, so that siblings get their turn."""

    def trap(question: Question, prefix: Sequence[Step], k: int, seed: int) -> list[str]:
        if not prefix:
            return [f"a = {i}\n<step/>" for i in range(4)]
        if "a = 0" in prefix[0].code:
            fails = [f"b = {seed} / 0\n<step/>", f"b = {seed + 1} / 0\n<step/>"]
            return [f"b = {seed}\n<step/>", *fails] if len(prefix) < 4 else fails
        return ["It is \\boxed{1}.\n<answer/>"] if len(prefix) > 1 else ["print(1)\n<code/>"]

    tree = grown(SearchConfig(rollouts=8, candidates=4), policy=ScriptedPolicy(trap))
    assert all(tree.nodes[child].rollouts for child in tree.nodes[ROOT].children)
    assert len(tree.answer_nodes()) == 3


class Broken:
    """A scorer and a verifier that fail on their second use."""

    def __init__(self) -> None:
        self.uses = 0

    def _use(self) -> None:
        self.uses += 1
        if self.uses == 2:
            raise ModelUnreachableError("gone")

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        self._use()
        return [0.0 for _ in prefixes]

    async def judge(self, answer: str) -> Verdict:
        self._use()
        return Verdict.RIGHT


@pytest.mark.parametrize("part", ["scorer", "verifier"])
def test_an_error_in_a_scorer_or_verifier_leaves_a_tree_to_go_on_with(part: str) -> None:
    tree = Tree(QUESTION)
    parts: dict[str, Any] = {part: Broken()}
    with pytest.raises(ModelUnreachableError):
        grown(tree=tree, **parts)
    assert all(tree.nodes[end].closed for end in tree.answer_nodes())
    assert all(node.expanded == bool(node.children) for node in tree if not node.closed)
    grown(tree=tree, **parts)
    for index, node in enumerate(tree):
        assert not (node.answered and node.children), index


@pytest.mark.parametrize("score", [float("nan"), 1.5, -2.0])
def test_a_score_out_of_range_is_refused(score: float) -> None:
    class Odd:
        async def score(
            self, question: Question, prefixes: Sequence[Sequence[Step]]
        ) -> list[float]:
            return [score for _ in prefixes]

    with pytest.raises(ModelError, match="scorer"):
        grown(scorer=Odd())


def test_chains_finished_before_an_error_are_kept() -> None:
    class Dying:
        def __init__(self) -> None:
            self.calls = 0

        async def propose(
            self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
        ) -> list[Step]:
            self.calls += 1
            await asyncio.sleep(0)
            if not prefix:
                end = Step(prose="It is \\boxed{1}", kind="answer", answer="1")
                return [end, Step(code="s = 1\n"), Step(code="s = 2\n")]
            raise ModelUnreachableError("gone")

    tree, policy = Tree(QUESTION), Dying()
    with pytest.raises(ModelUnreachableError):
        asyncio.run(
            sample_chains(
                tree,
                3,
                parts=SearchComponents(policy, DirectExecutor()),
                config=SearchConfig(max_depth=4),
            )
        )
    assert (len(tree.answer_nodes()), tree.rollouts) == (1, 1)
    assert policy.calls <= 3
