"""New problems: what is asked, what is read, what is kept and why not."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.errors import ConfigError, ModelUnreachable, RequestFailed
from rstar_math.meter import charge, metering
from rstar_math.problems.decontamination import Evaluations
from rstar_math.problems.difficulty import Success
from rstar_math.problems.drafts import (
    STOPS,
    Agreement,
    agreement,
    drop_unreliable,
    read_draft,
    synthesis_prompt,
)
from rstar_math.problems.synthesis import Recipe, Solve, Synthesis, synthesise
from rstar_math.testing import ScriptedCompleter
from rstar_math.types import Cost, Problem, Question

SEEDS = [
    Problem(Question(f"seed{n}", text), "1")
    for n, text in enumerate(
        [
            "Tom has 3 bags of 4 apples and eats 2. How many apples are left?",
            "A train goes 60 miles an hour for 5 hours. How far does it go?",
            "Ann is 9 and her brother is twice as old. How old are both together?",
        ]
    )
]
PENS = "A box holds 12 pens and a shop has 5 boxes. How many pens has the shop?"
HENS = "A hen lays 2 eggs a day. How many eggs do 6 hens lay in a week?"
EXAM = "In an exam hall there are 14 rows of 8 desks. How many desks are in the hall?"


async def group(answers: Sequence[str]) -> list[int]:
    classes: dict[str, int] = {}
    return [classes.setdefault(answer.removesuffix(".0"), len(classes)) for answer in answers]


def solving(table: dict[str, Sequence[str | None]]) -> Solve:
    async def solve(question: Question, n: int, seed: int) -> Sequence[str | None]:
        charge(Cost(calls=1, samples=n))
        return table[question.text]

    return solve


def run(
    texts: Sequence[str],
    table: dict[str, Sequence[str | None]] | None = None,
    solve: Solve | None = None,
    **options: int,
) -> Synthesis:
    recipe = Recipe(**{"requests": 1, "each": len(texts), **options})
    completer = ScriptedCompleter(lambda prompt, n, seed: texts)
    return asyncio.run(
        synthesise(
            completer,
            SEEDS,
            recipe,
            model="scripted",
            solve=solve or solving(table or {}),
            group=group,
            evaluations=Evaluations({"exam": [Problem(Question("e", EXAM))]}),
        )
    )


def test_a_problem_is_kept_with_where_it_came_from() -> None:
    votes = ["60", "60.0", None, "5", "60", *["17"] * 2, None, None, "61"]
    with metering() as cost:
        found = run([f" {PENS}\n\nProblem: more"], {PENS: votes})
    [kept] = found.kept
    assert kept.problem.question.text == PENS
    assert kept.problem.reference == "60"
    assert kept.problem.source == "synthetic"
    assert kept.problem.id.startswith("synthetic/")
    assert sorted(kept.seeds) == ["seed0", "seed1", "seed2"]
    assert kept.provenance() == {
        "seeds": list(kept.seeds),
        "model": "scripted",
        "agreeing": 3,
        "solutions": 10,
    }
    assert found.dropped == {}
    assert (found.cost.calls, found.cost.samples) == (2, 11)
    assert cost.calls == 2


def test_what_is_not_kept_is_counted_by_reason() -> None:
    texts = [
        "Too short?",
        "The answer: 4 is what you find, is it not so?",
        PENS,
        PENS.upper(),
        SEEDS[1].question.text,
        f"{EXAM} Give a number.",
        HENS,
        "How many wheels do 3 cars and 4 bikes have in all?",
        "How many corners do 5 cubes have if none is cut off?",
    ]
    votes: dict[str, Sequence[str | None]] = {
        PENS: ["1", "1", "2", "2", "3"],
        PENS.upper(): ["1", "1", "2", "2", "3"],
        HENS: [None, None],
        texts[7]: ["20", "20", "21"],
        texts[8]: ["40"] * 3 + ["8"] * 2,
    }
    found = run(texts, votes)
    assert [one.problem.reference for one in found.kept] == ["40"]
    assert found.dropped == {
        "unreadable": 2,
        "duplicate": 1,
        "known": 2,
        "disagreement": 2,
        "no answer": 1,
    }
    assert {(match.evaluation, match.item.id) for match in found.known} == {
        ("seeds", "seed1"),
        ("exam", "e"),
    }
    assert len(texts) == len(found.kept) + sum(found.dropped.values())


def test_a_draft_cut_off_is_not_read() -> None:
    assert run([PENS], max_tokens=5).dropped == {"unreadable": 1}


def test_a_problem_that_cannot_be_asked_ends_no_other() -> None:
    async def solve(question: Question, n: int, seed: int) -> Sequence[str | None]:
        if question.text == HENS:
            raise RequestFailed("no")
        return ["60"] * n

    found = run([HENS, PENS], solve=solve)
    assert [one.problem.question.text for one in found.kept] == [PENS]
    assert found.dropped == {"unsolved": 1}

    async def lost(question: Question, n: int, seed: int) -> Sequence[str | None]:
        raise ModelUnreachable("gone")

    with pytest.raises(ModelUnreachable):
        run([PENS], solve=lost)


def test_requests_differ_and_come_from_the_seed() -> None:
    def requests(seed: int) -> list[tuple[str, int]]:
        completer = ScriptedCompleter(lambda prompt, n, seed: [])
        recipe = Recipe(requests=3, shots=2, seed=seed)
        work = synthesise(completer, SEEDS, recipe, model="m", solve=solving({}), group=group)
        assert asyncio.run(work).kept == []
        assert {request.stop for request in completer.requests} == {STOPS}
        return [(request.prompt, request.seed) for request in completer.requests]

    assert requests(1) == requests(1)
    assert len({seed for _, seed in requests(1) + requests(2)}) == 6


def test_too_few_seeds_are_refused() -> None:
    with pytest.raises(ConfigError, match="it has 1 and 3"):
        run([PENS], shots=4)


def test_the_prompt_shows_the_seeds_and_ends_open() -> None:
    prompt = synthesis_prompt(SEEDS[:2])
    assert prompt.count("\n\nProblem: ") == 2
    assert prompt.endswith(f"{SEEDS[1].question.text}\n\nProblem:")


@pytest.mark.parametrize(
    ("text", "draft"),
    [
        (f" {PENS}\n", PENS),
        (f"Problem 3: {PENS}", PENS),
        (f"**New problem:** {PENS}", PENS),
        ("Problem: $x + 3 = 9$ holds. Find x if y is 2x.", "$x + 3 = 9$ holds. Find x if y is 2x."),
        (f"{PENS} Answer: 60", None),
        (f"{PENS} It is \\boxed{{60}}.", None),
        ("There are many apples on the tree in the garden.", None),
        ("How many?", None),
        ("How many? " * 400, None),
        ("", None),
    ],
)
def test_a_draft_is_read_where_it_is_a_problem(text: str, draft: str | None) -> None:
    assert read_draft(text) == draft


@given(st.text())
def test_any_text_can_be_read_as_a_draft(text: str) -> None:
    draft = read_draft(text)
    assert draft is None or (draft == draft.strip() and len(draft) <= 2000)


@pytest.mark.parametrize(
    ("answers", "classes", "found"),
    [
        (["1", "1", None, "2"], [0, 0, 1], Agreement("1", 2, 4)),
        (["1", "2"], [0, 1], Agreement(None, 1, 2)),
        ([None, None], [], Agreement(None, 0, 2)),
        (["2", "1", "1.0"], [0, 1, 1], Agreement("1", 2, 3)),
    ],
)
def test_agreement(answers: list[str | None], classes: list[int], found: Agreement) -> None:
    assert agreement(answers, classes) == found


def test_problems_whose_trajectories_disagree_are_dropped() -> None:
    figures = {"seed0": Success("seed0", 0.49, 100), "seed1": Success("seed1", 0.5, 10)}
    kept, dropped = drop_unreliable(SEEDS, figures)
    assert [one.id for one in dropped] == ["seed0"]
    assert [one.id for one in kept] == ["seed1", "seed2"]
