"""Which problems are dropped for which other, and which are only alike."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.problems.filtering import Deduplicated, deduplicate, similarity
from rstar_math.problems.similarity import likely_pairs, split_words
from rstar_math.types import Problem, Question

LONG = (
    "A farmer has 12 cows and 7 horses on a large farm near the river. He sells 3 of the cows at "
    "the market on Monday. How many animals does he have now in all?"
)


def problem(name: str, text: str, reference: str | None = None, source: str = "s") -> Problem:
    return Problem(Question(name, text), reference, source)


def ids(problems: list[Problem]) -> list[str]:
    return [one.id for one in problems]


def test_the_same_text_stays_once_and_names_its_witness() -> None:
    found = deduplicate(
        [problem("b", "What is 3+4?", "7"), problem("c", "1 + 1?"), problem("a", "what is $3 + 4$")]
    )
    assert ids(found.kept) == ["b", "c"]
    [removed] = found.removed
    assert (removed.problem.id, removed.witness.id, removed.kind) == ("a", "b", "same")
    assert found.conflicts == []


def test_contradicting_references_drop_all_and_are_listed() -> None:
    three = [problem("a", "What is 3+4?", "7"), problem("b", "What is 3 + 4?", "8")]
    found = deduplicate([*three, problem("c", "what is 3+4", None), problem("d", "2 + 2?", "4")])
    assert ids(found.kept) == ["d"]
    assert [ids(group) for group in found.conflicts] == [["a", "b", "c"]]
    assert found.removed == []


def test_references_that_are_equal_do_not_contradict() -> None:
    two = [problem("a", "What is 1/2 of 1?", "1/2"), problem("b", "What is 1/2 of 1?", "0.5")]
    assert deduplicate(two).kept == []
    assert ids(deduplicate(two, same_answer=lambda a, b: {a, b} == {"1/2", "0.5"}).kept) == ["a"]
    dressed = [two[0], problem("b", "What is 1/2 of 1?", " $\\frac{1}{2}$ ")]
    assert ids(deduplicate(dressed).kept) == ["a"]


def test_a_near_duplicate_has_the_same_figures_and_the_same_reference() -> None:
    first = problem("a", LONG, "16")
    near = problem("b", LONG.replace("large", "small"), "16")
    found = deduplicate([first, near])
    assert [(d.problem.id, d.witness.id, d.kind) for d in found.removed] == [("b", "a", "near")]
    assert ids(deduplicate([first, near], threshold=1.1).kept) == ["a", "b"]
    for other in (
        problem("b", LONG.replace("large", "small"), "17"),
        problem("b", LONG.replace("large", "small"), None),
        problem("b", LONG.replace("12", "13"), "16"),
        problem("b", LONG.replace("12", "7").replace("and 7", "and 12"), "16"),
    ):
        assert ids(deduplicate([first, other]).kept) == ["a", "b"]


def test_twins_are_reported_and_stay() -> None:
    found = deduplicate(
        [
            problem("a", LONG, "16"),
            problem("b", LONG.replace("12", "15"), "19"),
            problem("c", "Hi?"),
        ]
    )
    assert ids(found.kept) == ["a", "b", "c"]
    assert [ids(family) for family in found.twins] == [["a", "b"]]


def test_the_one_with_a_reference_stays_whatever_the_order() -> None:
    two = [problem("a", "What is 3+4?"), problem("z", "What is 3+4?", "7")]
    assert ids(deduplicate(two).kept) == ids(deduplicate(two[::-1]).kept) == ["z"]


def test_a_chain_of_near_duplicates_leaves_one() -> None:
    texts = [LONG, LONG.replace("large", "small")]
    texts.append(texts[1].replace("river", "lake"))
    texts.append(texts[2].replace("market", "fair"))
    assert similarity(split_words(texts[0]).plain, split_words(texts[3]).plain) < 0.8
    found = deduplicate([problem(f"{n}", text, "16") for n, text in enumerate(texts)])
    assert ids(found.kept) == ["0"]
    assert {d.witness.id for d in found.removed} == {"0"}


def test_texts_that_are_no_words_are_told_apart() -> None:
    assert ids(deduplicate([problem("a", "??"), problem("b", ";;"), problem("c", "")]).kept) == [
        *"abc"
    ]
    assert deduplicate([]) == Deduplicated([], [], [], [])


@given(st.integers(0, 2**32))
def test_similar_pairs_are_found_and_none_twice(seed: int) -> None:
    rng = random.Random(seed)
    text = [f"w{rng.randrange(200)}" for _ in range(40)]
    other = [*text]
    other[rng.randrange(40)] = "changed"
    far = [f"v{rng.randrange(200)}" for _ in range(40)]
    pairs = list(likely_pairs([text, far, other, ["a"]], [0, 0, 0, 0]))
    assert pairs == [(0, 2)]
    assert list(likely_pairs([text, other], [0, 1])) == []


TEXTS = st.sampled_from(
    [
        LONG,
        LONG.upper(),
        LONG.replace("large", "small"),
        LONG.replace("large", "wide").replace("river", "sea"),
        LONG.replace("12", "9"),
        "What is 3 + 4?",
        "what is $3+4$",
        "What is 3 - 4?",
    ]
)
SETS = st.lists(
    st.tuples(TEXTS, st.sampled_from([None, "1", "2"]), st.sampled_from("st")), max_size=9
).map(lambda rows: [problem(f"{n}", *row) for n, row in enumerate(rows)])


@given(SETS, st.randoms())
def test_survivors_do_not_depend_on_the_order_and_stay_survivors(
    problems: list[Problem], rng: random.Random
) -> None:
    found = deduplicate(problems)
    again = deduplicate(found.kept)
    assert again.kept == found.kept
    assert again.removed == []
    assert again.conflicts == []
    mixed = [*problems]
    rng.shuffle(mixed)
    assert sorted(ids(deduplicate(mixed).kept)) == sorted(ids(found.kept))


@given(SETS)
def test_nothing_goes_without_a_witness_that_stays(problems: list[Problem]) -> None:
    found = deduplicate(problems)
    gone = [d.problem for d in found.removed] + [p for group in found.conflicts for p in group]
    assert sorted(ids(found.kept + gone)) == sorted(ids(problems))
    for duplicate in found.removed:
        assert duplicate.witness in found.kept
        one, other = (split_words(d.question.text) for d in (duplicate.problem, duplicate.witness))
        assert one.figures == other.figures
        assert (one.exact == other.exact) == (duplicate.kind == "same")
    for group in found.conflicts:
        assert len({p.reference for p in group} - {None}) > 1


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [("a b c d", "a b c d", 1.0), ("a b c d", "a b c e", 1 / 3), ("a b", "a b", 0.0)],
)
def test_similarity_is_the_share_of_common_shingles(one: str, other: str, share: float) -> None:
    assert similarity(one.split(), other.split()) == share
