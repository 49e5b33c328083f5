"""Mutual reasoning with the real grader: what agrees is decided as answers are graded."""

import asyncio
from collections.abc import Sequence

from rstar_math.config import GradingConfig, MutualConfig
from rstar_math.grading import Grader
from rstar_math.search import ROOT, Choice, Tree, check_solutions, choose_by_agreement
from rstar_math.types import Question, Step


def lines(question: Question, steps: Sequence[Step]) -> list[str]:
    return [line for step in steps for line in step.text.splitlines(keepends=True)]


class HalfEveryTime:
    """A Peer that says one thing in several ways, and nothing of use to what begins with "W"."""

    async def complete_answers(
        self, question: Question, partial: str, n: int, *, seed: int
    ) -> list[str | None]:
        """See `protocols.Discriminator`."""
        if partial.startswith("W"):
            return ["no idea"] * n
        return [("0.5", "\\frac{1}{2}", "50\\%", "x = 1/2")[len(partial.splitlines()) - 2]] * n


def test_equal_answers_agree_however_they_are_written() -> None:
    tree = Tree(Question("q", "?"))
    for first, answer in (("We", "2"), ("Who", "2.0"), ("So", "1/2"), ("It", "\\sqrt{2}")):
        prose = first + "\n" + "and so on\n" * 8 + answer
        tree.add(ROOT, Step(prose=prose, kind="answer", answer=answer))
    config = MutualConfig(
        splits=4, min_visible=0.2, max_visible=0.5, min_agreement="half", score="code"
    )

    async def solved() -> Choice:
        async with Grader(GradingConfig(workers=1)) as grader:
            await check_solutions(
                tree,
                discriminator=HalfEveryTime(),
                segments=lines,
                group=grader.group,
                config=config,
                seed=0,
            )
            return await choose_by_agreement(tree, grader.group, config)

    choice = asyncio.run(solved())
    peers = [node.agreement for node in tree.nodes[1:]]
    assert (peers[0], peers[1], peers[3]) == ((0, 4), (0, 4), (0, 4))
    assert peers[2] is not None
    assert peers[2] >= (3, 4)
    assert (choice.answer, choice.node) == ("1/2", 3)
