"""Judges: what they are asked, what their answers are worth, what they cost, and tournaments."""

import asyncio
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.config import JudgeConfig, load_config
from rstar_math.costs import add_cost, track_cost
from rstar_math.errors import ConfigError, ContextLengthError
from rstar_math.policies.judging import JudgeScorer, PairwiseJudge
from rstar_math.prompts.judging import (
    JUDGEMENT_STYLES,
    parse_genprm,
    parse_preference,
    parse_rating,
    parse_thinkprm,
)
from rstar_math.protocols import Completion
from rstar_math.search import Tree
from rstar_math.search.review import Reviewer
from rstar_math.search.tournament import bracket, play, tournament_review
from rstar_math.search.voting import Choice
from rstar_math.solver.solver import Solver
from rstar_math.testing import ScriptedPolicy
from rstar_math.types import Cost, Question, Step

ASKED = Question("q", "What is 2 + 3?")
RIGHT, WRONG = (Step(prose=f"It is {n}.", kind="thought", answer=str(n)) for n in (5, 6))


class Answers:
    """A Completer that answers a prompt with given texts, the first whose key is in the prompt."""

    def __init__(self, texts: dict[str, Sequence[str]]) -> None:
        self.texts, self.prompts = texts, list[str]()

    async def complete(
        self,
        prompt: str,
        *,
        n: int,
        stop: Sequence[str],
        max_tokens: int,
        temperature: float,
        seed: int,
    ) -> list[Completion]:
        self.prompts.append(prompt)
        add_cost(Cost(calls=1, samples=n, prompt_tokens=10, sampled_tokens=4 * n))
        found = next(texts for key, texts in self.texts.items() if key in prompt)
        return [Completion(text, True) for text in found[:n]]


def test_verdicts_are_read_in_their_fixed_forms() -> None:
    assert [parse_rating(text) for text in ("Rating: 10", "**Rating:** 1", "Rating 5.")] == [
        1.0,
        -1.0,
        pytest.approx(-1 / 9),
    ]
    assert parse_rating("Rating: 3 at first. Rating: 10") == 1.0
    assert parse_genprm("... $\\boxed{Yes}$, no: \\boxed{ no }") == -1.0
    assert parse_thinkprm("Step 1: \\boxed{correct}\nIs the solution correct? No") == -1.0
    assert parse_thinkprm("Step 1 \\boxed{correct} Step 2 \\boxed{incorrect}") == -1.0
    assert parse_thinkprm("Step 1 \\boxed{correct}") == 1.0
    assert [parse_preference(f"Better: {x}") for x in ("A", "b", "tie")] == [1.0, 0.0, 0.5]
    for parse in (parse_rating, parse_genprm, parse_thinkprm, parse_preference):
        assert parse("I do not know.") is None


@given(st.text())
def test_a_verdict_of_any_text_is_in_range_or_none(text: str) -> None:
    for parse in (parse_rating, parse_genprm, parse_thinkprm):
        value = parse(text)
        assert value is None or -1.0 <= value <= 1.0


def test_a_value_is_the_mean_of_the_votes_and_charged_to_the_scorer() -> None:
    model = Answers({"is 5": ["Rating: 10", "hm", "Rating: 1"], "is 6": ["no idea"] * 3})
    judge = JudgeScorer(model, JudgeConfig(votes=3))
    with track_cost() as cost:
        values = asyncio.run(judge.score(ASKED, [[RIGHT], [WRONG], []]))
    assert values == [0.0, 0.0, 0.0]
    assert cost.unscorable == 1, "only the prefix without any verdict"
    assert (cost.sampled_tokens, cost.prompt_tokens, cost.samples) == (0, 0, 0)
    assert cost.scorer_tokens == 2 * (10 + 12)
    assert len(model.prompts) == 2


@pytest.mark.parametrize("style", JUDGEMENT_STYLES)
def test_each_style_shows_the_problem_and_all_steps(style: str) -> None:
    said = {"rating": "Rating: 10", "genprm": "\\boxed{Yes}", "thinkprm": "correct? Yes"}
    model = Answers({"": ["Is the solution " * (style == "thinkprm") + said[style]]})
    judge = JudgeScorer(model, JudgeConfig(style=style))
    assert asyncio.run(judge.score(ASKED, [[WRONG, RIGHT]])) == [1.0]
    (prompt,) = model.prompts
    for shown in (ASKED.text, "It is 5.", "It is 6."):
        assert shown in prompt


def test_a_rubric_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "rubric.txt"
    file.write_text("Look at the units.")
    model = Answers({"": ["Rating: 7"]})
    asyncio.run(JudgeScorer(model, JudgeConfig(rubric=str(file))).score(ASKED, [[RIGHT]]))
    assert "Look at the units." in model.prompts[0]
    file.write_text(" \n")
    for path in (file, tmp_path / "missing.txt"):
        with pytest.raises(ConfigError, match=re.escape(str(path))):
            JudgeScorer(model, JudgeConfig(rubric=str(path)))


def test_a_prompt_that_does_not_fit_has_no_value() -> None:
    class Full:
        async def complete(self, prompt: str, **options: object) -> list[Completion]:
            raise ContextLengthError("too long")

    with track_cost() as cost:
        values = asyncio.run(JudgeScorer(Full(), JudgeConfig()).score(ASKED, [[RIGHT]]))
    assert values == [0.0]
    assert cost.unscorable == 1


def test_a_preference_for_a_place_cancels_out() -> None:
    always_first = PairwiseJudge(Answers({"": ["Better: A"] * 4}), JudgeConfig(votes=2))
    assert asyncio.run(always_first.compare(ASKED, [RIGHT], [WRONG])) == 0.5
    fair = PairwiseJudge(
        Answers({"A:\nStep 1: It is 5": ["Better: A"], "": ["Better: B"]}), JudgeConfig()
    )
    assert asyncio.run(fair.compare(ASKED, [RIGHT], [WRONG])) == 1.0
    assert asyncio.run(fair.compare(ASKED, [WRONG], [RIGHT])) == 0.0


@given(st.integers(1, 40))
def test_a_bracket_has_every_seed_once_and_byes_for_the_best(entrants: int) -> None:
    places = bracket(entrants)
    assert len(places) & (len(places) - 1) == 0
    assert sorted(p for p in places if p is not None) == list(range(entrants))
    free = [
        a if b is None else b
        for a, b in zip(places[::2], places[1::2], strict=False)
        if None in (a, b)
    ]
    assert sorted(map(int, filter(lambda x: x is not None, free))) == list(range(len(free)))  # type: ignore[arg-type]


@given(st.permutations(range(11)), st.integers(2, 11))
def test_the_strongest_entrant_wins(strength: list[int], entrants: int) -> None:
    asked: list[tuple[int, int]] = []

    async def prefers(better: int, other: int) -> bool:
        asked.append((better, other))
        return strength[better] > strength[other]

    won, rounds = asyncio.run(play(range(entrants), prefers))
    best = max(range(entrants), key=lambda each: strength[each])
    assert won[best] == rounds == max(won.values())
    assert len(asked) == entrants - 1
    assert all(better < other for better, other in asked), "the better seed comes first"


def reviewed(reviewer: Reviewer, tree: Tree) -> Choice:
    async def work() -> Choice:
        return await reviewer.review(tree, None)

    return asyncio.run(work())


def path(tree: Tree, text: str, answer: str, run: int) -> int:
    node = tree.add(0, Step(prose=text, kind="thought", answer=answer))
    tree.nodes[node].run = run
    return node


def test_a_tournament_chooses_the_answer_and_asks_no_pair_twice() -> None:
    tree = Tree(ASKED)
    texts = ["six", "six again", "five", "seven", "six more"]
    answers = ["6", "6", "5", "7", "6"]
    nodes = [path(tree, t, a, n) for n, (t, a) in enumerate(zip(texts, answers, strict=True))]

    class Prefers:
        def __init__(self) -> None:
            self.asked = list[tuple[str, str]]()

        async def compare(
            self, question: Question, first: Sequence[Step], second: Sequence[Step]
        ) -> float:
            self.asked.append((first[0].prose, second[0].prose))
            add_cost(Cost(scorer_tokens=7))
            return 1.0 if first[0].answer == "5" else 0.0 if second[0].answer == "5" else 0.5

    async def group(found: Sequence[str]) -> list[int]:
        return [list(dict.fromkeys(found)).index(each) for each in found]

    judge = Prefers()
    reviewer = tournament_review(judge, group=group)
    choice = reviewed(reviewer, tree)
    assert choice.answer == "5"
    assert choice.node == nodes[2]
    assert tree.nodes[nodes[2]].score == 1.0
    assert all(-1 <= (tree.nodes[node].score or 0) < 1 for node in nodes if node != nodes[2])
    assert not any("six" in a and "six" in b for a, b in judge.asked), "equal answers are not asked"
    before = len(judge.asked)
    assert 0 < before <= 4
    assert tree.cost.scorer_tokens == 7 * before
    reviewed(reviewer, tree)
    assert len(judge.asked) == before
    assert reviewed(tournament_review(judge, group=group), Tree(ASKED)).answer is None


def guesses(question: Question, prefix: Sequence[Step], k: int, seed: int) -> list[str]:
    """Programs that print some number, and its answer."""
    if prefix and prefix[-1].execution is not None:
        return [f"It is \\boxed{{{prefix[-1].execution.stdout.strip()}}}.\n<answer/>"] * k
    rng = random.Random(seed)
    return [f"# Guess.\nprint({rng.randrange(100)})\n<code/>" for _ in range(k)]


class Largest:
    """A stand-in of a chat model that prefers the solution with the larger box."""

    async def complete(self, prompt: str, *, n: int, **options: object) -> list[Completion]:
        a, b = (int(found) for found in re.findall(r"boxed\{(\d+)\}", prompt)[-2:])
        add_cost(Cost(calls=1, prompt_tokens=5, sampled_tokens=n))
        said = "tie" if a == b else "A" if a > b else "B"
        return [Completion(f"Better: {said}", True)] * n


def test_a_pairwise_judge_chooses_the_answer_of_bon_and_mcts() -> None:
    judge: Any = PairwiseJudge(Largest(), JudgeConfig())
    config = load_config(None, ["search.rollouts=6", "search.candidates=4"])

    async def work() -> None:
        policy = ScriptedPolicy(guesses)
        async with Solver(config, policy=policy, scorer=judge) as solver:
            for strategy in ("bon@6", "mcts@6"):
                solution = await solver.solve(ASKED, strategy)
                answers = [
                    int(node.step.answer)
                    for node in solution.tree
                    if node.answered and node.step is not None and node.step.answer is not None
                ]
                assert len(set(answers)) > 1
                assert solution.answer == str(max(answers))
                assert solution.tree.cost.scorer_tokens > 0
            with pytest.raises(ConfigError, match="pairwise"):
                await solver.solve(ASKED, "beam@2")

    asyncio.run(work())


def test_a_judge_without_a_model_says_what_to_set() -> None:
    async def work() -> None:
        config = load_config(None, ["search.scorer=judge"])
        async with Solver(config, policy=ScriptedPolicy(guesses)):
            raise AssertionError

    with pytest.raises(ConfigError, match=r"judge\.url"):
        asyncio.run(work())
