"""Samples that are no steps: collected with their tree, limited, stored, and kept over a kill."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from rstar_math.config import PolicyConfig
from rstar_math.policies.completions import StepPolicy
from rstar_math.protocols import Completion
from rstar_math.rejected import (
    MAX_CHARS,
    MAX_PROMPT_CHARS,
    MAX_TEXT_CHARS,
    RejectedSample,
    add_rejected,
    collect_rejected,
)
from rstar_math.runs.journal import GrowingTrees
from rstar_math.runs.recording import record_policy
from rstar_math.search import Tree, from_record, to_record
from rstar_math.search.budget import track_tree_cost
from rstar_math.types import Question

QUESTION = Question("q", "How many?")


class Babbling:
    """A completer that writes no steps: one sample is cut off, the other is empty."""

    async def complete(self, prompt: str, **options: Any) -> list[Completion]:
        return [Completion("# Add the", False), Completion("   ", True, "<step/>")]


def rejected_by(policy: Any, tree: Tree) -> list[RejectedSample]:
    with track_tree_cost(tree):
        assert asyncio.run(policy.propose(QUESTION, (), 2, seed=1)) == []
    return tree.rejected


def test_a_tree_holds_what_the_model_wrote_and_why_it_is_no_step() -> None:
    tree = Tree(QUESTION)
    policy = StepPolicy(Babbling(), PolicyConfig(format="tags"))
    cut, empty = rejected_by(policy, tree)
    assert (cut.text, cut.reason) == ("# Add the", "cut off at the token limit")
    assert (empty.text, empty.reason, empty.depth) == ("   ", "empty", 0)
    assert QUESTION.text in cut.prompt
    assert (tree.cost.truncated, tree.cost.malformed) == (1, 1)
    assert sorted(from_record(to_record(tree)).rejected) == sorted(tree.rejected)


def test_they_survive_a_kill(tmp_path: Path) -> None:
    growing = GrowingTrees(tmp_path)

    def attempt() -> tuple[int, list[RejectedSample]]:
        journal = growing.open("q", "mcts")
        policy = record_policy(StepPolicy(Babbling(), PolicyConfig(format="tags")), journal)
        found = rejected_by(policy, Tree(QUESTION))
        journal.close()
        return journal.replayed, found

    (asked, first), (replayed, second) = attempt(), attempt()
    assert (asked, replayed) == (0, 1)
    assert second == first
    assert len(first) == 2


def test_a_tree_keeps_a_limited_amount() -> None:
    with collect_rejected([]) as found:
        for number in range(100):
            add_rejected(RejectedSample(number, "p" * 10**6 + "end", "t" * 10**6, "long"))
    assert found[0].prompt.endswith("pend")
    assert len(found[0].prompt) == MAX_PROMPT_CHARS
    assert found[0].text == "t" * MAX_TEXT_CHARS
    assert len(found) == MAX_CHARS // (MAX_PROMPT_CHARS + MAX_TEXT_CHARS)


def test_trees_that_are_merged_keep_both() -> None:
    first, second = Tree(QUESTION), Tree(QUESTION)
    first.rejected = [RejectedSample(0, "a", "b", "empty")]
    second.rejected = [RejectedSample(1, "c", "d", "empty")]
    first.merge(second)
    assert [each.text for each in first.rejected] == ["b", "d"]


@pytest.mark.parametrize("damage", [{"depth": "0"}, {"text": None}, {"prompt": 3}])
def test_a_damaged_record_is_refused(damage: dict[str, Any]) -> None:
    tree = Tree(QUESTION)
    tree.rejected = [RejectedSample(0, "a", "b", "empty")]
    record = to_record(tree)
    record["rejected"][0].update(damage)
    with pytest.raises(Exception, match="damaged"):
        from_record(record)
