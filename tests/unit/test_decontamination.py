"""Which problems an evaluation asks already, in which dress, and which only look like it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.errors import ConfigError
from rstar_math.problems.filtering import (
    Decontaminated,
    EvaluationIndex,
    OverlapRule,
    decontaminate,
)
from rstar_math.types import Problem, Question

ASKED = (
    "A baker makes 24 rolls and 15 loaves before 6 in the morning. She sells each of the rolls for "
    "$2 and each of the loaves for $3. How much money does she take if all of it is sold?"
)
SHORT = "How many legs do 7 spiders and 4 cats have in all?"
FORMULA = "Simplify: $-10-4(n-5)$"
NEITHER = (
    "Lena reads 30 pages of her book on the first day and twice as many on the second day. How "
    "many pages are left if the book has 240 pages?"
)


def problem(text: str, name: str = "p") -> Problem:
    return Problem(Question(name, text), "1")


def held(text: str, *asked: str, rule: OverlapRule | None = None) -> Decontaminated:
    """A text held against evaluation questions."""
    questions = [problem(one, f"e{n}") for n, one in enumerate(asked)]
    return decontaminate(
        [problem(text)], EvaluationIndex({"exam": questions}, rule or OverlapRule())
    )


@pytest.mark.parametrize(
    ("text", "asked", "kind"),
    [
        (ASKED.upper(), ASKED, "same"),
        (ASKED.replace(" ", "  ").replace(".", " ,"), ASKED, "same"),
        (ASKED.replace("24", "$24$").replace("15", "\\textbf{15}"), ASKED, "same"),
        (f"Question 9. Think step by step: {ASKED}", ASKED, "overlap"),
        (f"{ASKED} Give the number alone.", ASKED, "overlap"),
        (ASKED.replace("baker", "cook").replace("loaves", "cakes"), ASKED, "overlap"),
        (ASKED.replace("24", "#").replace("15", "24").replace("#", "15"), ASKED, "overlap"),
        (SHORT.replace("7", "#").replace("4", "7").replace("#", "4"), SHORT, "reordered"),
        (SHORT.lower().replace("?", "."), SHORT, "same"),
        (f"Problem 12: {SHORT}", SHORT, "overlap"),
        ("simplify -10 - 4 (n - 5)", FORMULA, "same"),
        (f"Question: {FORMULA}", FORMULA, "overlap"),
        ("How many legs do 7 spiders have", f"{SHORT} How many legs do 7 spiders have?", "part"),
    ],
)
def test_planted_questions_are_found_in_any_dress(text: str, asked: str, kind: str) -> None:
    found = held(text, NEITHER, asked)
    assert found.kept == []
    [match] = found.removed
    assert (match.item.id, match.evaluation, match.kind) == ("e1", "exam", kind)
    assert match.overlap
    assert 0.0 < match.ratio <= 1.0
    assert found.counts()["exam"][kind] == 1


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        (NEITHER, ASKED),
        ("How many legs do the insects of a jar have in all?", SHORT),
        ("Simplify: $-10-4(n+5)$", FORMULA),
        ("Simplify: $2(m-3)$", FORMULA),
        (
            "Solve $x^2 + 3x + 2 = 0$ for $x > 5$.",
            "If $x^2 + 3x + 2 = 0$ and $y = x + 1$, find $y$.",
        ),
        ("", ASKED),
        ("x", "x + 1"),
    ],
)
def test_unlike_problems_stay(text: str, asked: str) -> None:
    found = held(text, asked)
    assert [one.question.text for one in found.kept] == [text]
    assert found.removed == []


def test_a_stock_phrase_alone_removes_nothing() -> None:
    phrase = "can be written as m over n where m and n are relatively prime positive integers"
    first = f"The probability that two fair coins both show heads {phrase}. Find m + n."
    second = (
        "A circle is inscribed in a triangle whose three sides have the lengths five, twelve and "
        f"thirteen. Its area divided by that of the triangle {phrase}. Compute what m is worth."
    )
    found = held(first, second)
    assert found.kept
    assert held(first, second, rule=OverlapRule(ratio=0.0)).removed


def test_templates_are_reported_and_removed_only_on_demand() -> None:
    twin = SHORT.replace("7", "11").replace("4", "9")
    found = held(twin, SHORT)
    assert found.kept
    [match] = found.templates
    assert match.kind == "template"
    assert match.overlap == "how many legs do # spiders and # cats have in all"
    assert found.counts() == {
        "exam": {"same": 0, "overlap": 0, "part": 0, "reordered": 0, "template": 1}
    }
    strict = held(twin, SHORT, rule=OverlapRule(templates=True))
    assert not strict.kept
    assert not strict.templates
    assert [match.kind for match in strict.removed] == ["template"]


def test_a_problem_counts_in_every_set_that_asks_it() -> None:
    sets = {"one": [problem(ASKED, "a")], "two": [problem(NEITHER, "b"), problem(ASKED, "c")]}
    found = decontaminate([problem(ASKED), problem(SHORT, "q")], EvaluationIndex(sets))
    assert [(m.evaluation, m.item.id) for m in found.removed] == [("one", "a"), ("two", "c")]
    assert [one.id for one in found.kept] == ["q"]


def test_a_rule_out_of_range_is_refused() -> None:
    for rule in (OverlapRule(n=5), OverlapRule(ratio=-0.1), OverlapRule(template_ratio=-1.0)):
        with pytest.raises(ConfigError, match="at least 8"):
            EvaluationIndex({}, rule)


def test_nothing_is_found_where_nothing_is_asked() -> None:
    assert held(ASKED).kept
    assert held("??", "!?").kept
    assert decontaminate([], EvaluationIndex({"exam": [problem(ASKED)]})) == Decontaminated(
        [], [], []
    )


TEXTS = st.lists(
    st.sampled_from([ASKED, ASKED.upper(), SHORT, NEITHER, FORMULA, f"Now: {NEITHER}", "x", ""])
)


@given(TEXTS, TEXTS)
def test_nothing_goes_without_a_witness_and_once_is_enough(
    texts: list[str], asked: list[str]
) -> None:
    problems = [problem(text, f"p{n}") for n, text in enumerate(texts)]
    sets = EvaluationIndex({"exam": [problem(text, f"e{n}") for n, text in enumerate(asked)]})
    found = decontaminate(problems, sets)
    assert {one.id for one in found.kept} | {m.problem.id for m in found.removed} == {
        one.id for one in problems
    }
    assert len(found.kept) + len(found.removed) == len(problems)
    assert all(match.item.question.text in asked for match in found.removed)
    assert decontaminate(found.kept, sets).removed == []
    reversed_ = decontaminate(problems[::-1], sets)
    assert reversed_.kept == found.kept[::-1]
