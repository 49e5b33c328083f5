"""Steps that compute the same: in a tree search, and in solutions sampled for training."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from rstar_math.config import Config, SearchConfig
from rstar_math.search import ROOT, SearchComponents, Tree, grow, sample_chains
from rstar_math.search.equivalence import step_key
from rstar_math.search.strategies import Strategy
from rstar_math.solver.components import Components
from rstar_math.testing import ScriptedPolicy
from rstar_math.types import Question, Step
from tests.unit.toy import QUESTION, DirectExecutor, Equals, script


def test_comments_and_blank_space_do_not_make_another_step() -> None:
    one = Step(prose="# Add them.\n", code="s = 3+5\n")
    assert step_key(one) == step_key(Step(prose="# The sum:\n", code="s = 3 + 5  # both\n"))
    assert step_key(one) != step_key(Step(prose="# Add them.\n", code="s = 3 + 6\n"))
    assert step_key(one) != step_key(replace(one, kind="code"))


def test_answers_without_code_are_equal_if_they_state_the_same() -> None:
    one = Step(prose="It is \\boxed{8}.", kind="answer", answer="8")
    assert step_key(one) == step_key(replace(one, prose="So it is \\boxed{8}."))
    assert step_key(one) != step_key(replace(one, answer="9"))
    assert step_key(Step(prose="Think.")) != step_key(Step(prose="Think hard."))


def reworded(question: Question, prefix: Sequence[Step], k: int, seed: int) -> list[str]:
    """The script of the toy world, every step under a comment of its own."""
    texts = script(question, prefix, k, seed)
    return [text.replace("# Add", f"# ({seed % 97}, {at}) Add") for at, text in enumerate(texts)]


@pytest.mark.parametrize("duplicates", ["text", "program"])
def test_a_node_has_one_child_for_each_program(duplicates: str) -> None:
    config = SearchConfig.model_validate({"rollouts": 20, "duplicates": duplicates})
    tree = Tree(QUESTION)
    policy = ScriptedPolicy(reworded)
    asyncio.run(grow(tree, policy=policy, executor=DirectExecutor(), config=config))
    repeated = 0
    for node in tree:
        steps = [tree.nodes[child].step for child in node.children]
        keys = [step_key(step) for step in steps if step is not None]
        repeated += len(keys) - len(set(keys))
        if keys:
            assert sum(tree.nodes[child].count for child in node.children) == config.candidates
    assert (repeated > 0) is (duplicates == "text")


def test_chains_for_training_share_equal_first_steps_and_back_up_their_values() -> None:
    tree = Tree(QUESTION)
    parts = SearchComponents(ScriptedPolicy(reworded), DirectExecutor(), verifier=Equals("17"))
    asyncio.run(sample_chains(tree, 24, parts=parts, config=SearchConfig()))
    judged = [node for node in tree if node.verdict is not None]
    first = [tree.nodes[child] for child in tree.nodes[ROOT].children]
    assert sum(node.count for node in first) == tree.rollouts == 24
    assert len(first) < 24
    assert sum(node.count for node in judged) == tree.nodes[ROOT].visits > 0
    for index, node in enumerate(tree):
        below = [tree.nodes[child] for child in node.children]
        if below:
            assert node.visits == sum(child.visits for child in below)
            assert node.value_sum == sum(child.value_sum for child in below)
        assert node.q is None or -1 <= node.q <= 1
        keys = [(step_key(child.step), child.expanded) for child in below if child.step is not None]
        assert len(keys) == len(set(keys)), index
    assert {node.q for node in first if node.visits} == {-1.0, 1.0}
    assert max(node.visits for node in first) > 1


def test_chains_without_a_verifier_stay_apart() -> None:
    tree = Tree(QUESTION)
    parts = SearchComponents(ScriptedPolicy(script), DirectExecutor())
    asyncio.run(sample_chains(tree, 6, parts=parts, config=SearchConfig()))
    assert len(tree.nodes[ROOT].children) == 6
    assert all(node.verdict is None for node in tree)


def test_a_guided_search_by_chains_is_given_the_verifier() -> None:
    async def group(answers: Sequence[str]) -> list[int]:
        return [0 for _ in answers]

    policy = ScriptedPolicy(script)
    components = Components(Config(), policy, policy, DirectExecutor(), group)
    verifier = Equals("17")
    found = components.search_components(Strategy("sc", 8), SearchConfig(), verifier)
    assert found.verifier is verifier
