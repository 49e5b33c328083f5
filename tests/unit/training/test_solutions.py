"""Solutions to imitate, and when two programs count as one."""

import ast
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rstar_math.search import Tree
from rstar_math.search.equivalence import normalized_program
from rstar_math.training.curation import CurationConfig, Report, SelectedSolution
from rstar_math.training.curation.curate import cap_per_source, select_solutions
from rstar_math.training.curation.edit_distance import edit_distance
from rstar_math.training.curation.pairs import TreeValues
from rstar_math.types import Question, Step, Verdict
from tests.unit.training.trees import Spec, grown, names, shuffled, specs


def best(*trees: Tree, **options: Any) -> tuple[list[str], dict[str, int]]:
    report = Report()
    values = [TreeValues(f"t{index}", tree) for index, tree in enumerate(trees)]
    kept = select_solutions(values, CurationConfig(**options), report)
    return [names(one.trajectory.steps) for one in kept], report.solutions


MIXED: Spec = {
    "a": {"a1": "+", "a2": "-", "a3": {"a31": "+"}},
    "b": {"b1": "+", "b2": "-"},
    "c": {"c1": "+", "c2": "-", "c3": "-"},
    "!d": {"d1": "+"},
    "e": "x",
    "f": {"f1": "?"},
}
"""Mean Q of the right paths: a a1 2/3, a a3 a31 7/9, b b1 1/2, c c1 1/3, !d d1 1."""


def test_the_two_of_the_highest_mean_q_without_failed_code() -> None:
    kept, counts = best(grown(MIXED))
    assert kept == ["a a3 a31", "a a1"]
    assert counts == {
        "no answer": 1,
        "not judged": 1,
        "wrong": 4,
        "failed code": 1,
        "kept": 2,
        "not among the best 2": 2,
    }


def test_failed_code_is_out_before_the_cut() -> None:
    assert best(grown({"!a": {"1": "+"}, "b": {"2": "+", "3": "-"}}), solutions=1)[0] == ["b 2"]


def test_equal_means_go_by_the_least_q() -> None:
    tree = grown(
        {"a": {"a1": {"a2": "+"}}, "b": {"b1": {"b2": "+"}}},
        q={"a": -0.5, "a1": 1.0, "a2": 1.0, "b": 0.25, "b1": 0.25, "b2": 1.0},
    )
    assert best(tree, solutions=1)[0] == ["b b1 b2"]


def test_solutions_of_all_trees_of_a_problem_compete() -> None:
    good, fair = grown({"a": {"1": "+"}}), grown({"b": {"2": "+", "3": "-"}, "c": {"4": "+"}})
    kept, counts = best(fair, good)
    assert kept == ["a 1", "c 4"]
    assert counts == {"wrong": 1, "kept": 2, "not among the best 2": 1}


def test_the_same_program_counts_once_however_it_is_told() -> None:
    tree = grown({"a": {"1": "+", "so it is 1": "+"}, "b": {"2": "+", "3": "-"}})
    kept, counts = best(tree)
    assert kept == ["a 1", "b 2"]
    assert counts == {"wrong": 1, "kept": 2, "same program as a better one": 1}


def test_what_no_step_has_a_value_for_comes_last() -> None:
    tree = grown({"a": {"1": "+"}, "b": {"2": "+"}}, q={"b": -1.0, "2": -1.0})
    for node in tree.nodes[1:3]:
        node.visits = 0
    assert best(tree)[0] == ["b 2", "a 1"]


def solutions_of(problems: int) -> list[SelectedSolution]:
    found: list[SelectedSolution] = []
    for index in range(problems):
        tree = grown({"a": {"1": "+"}, "b": {"2": "+", "3": "-"}}, problem=f"p{index}")
        found.extend(select_solutions([TreeValues("t", tree)], CurationConfig(), Report()))
    return found


def test_a_cap_on_a_source_takes_the_best_of_many_problems_first() -> None:
    kept = solutions_of(6)
    sources: dict[str, str | None] = {f"p{i}": "s" if i < 4 else None for i in range(6)}
    counts = {"kept": len(kept)}
    left = cap_per_source(kept, sources, CurationConfig(per_source=3), counts)
    by_source = [[x for x in left if sources[x.trajectory.question.id] == s] for s in ("s", None)]
    assert [len(some) for some in by_source] == [3, 3]
    assert {names(one.trajectory.steps) for one in by_source[0]} == {"a 1"}
    assert len({one.trajectory.question.id for one in by_source[0]}) == 3
    assert counts == {"kept": 6, "over the cap of its source": 6}
    assert left == cap_per_source(kept, sources, CurationConfig(per_source=3), {})
    assert cap_per_source(kept, sources, CurationConfig(), {}) == kept


@given(specs.flatmap(lambda spec: st.tuples(st.just(spec), shuffled(spec))))
def test_what_holds_for_all_solutions(both: tuple[Spec, Spec]) -> None:
    one, other = (best(grown(spec), solutions=3) for spec in both)
    assert one == other
    tree = grown(both[0])
    ended = sum(node.answered or node.failure is not None for node in tree.nodes[1:])
    assert sum(one[1].values()) == ended


def form(*codes: str) -> str:
    return normalized_program([Step(prose="# words\n", code=code) for code in codes])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["x = 1\n"], ["x=1 # one\n"]),
        (["x = 1\ny = 2\n"], ["x = 1\n", "y = 2\n"]),
        (["s = 'a'\n"], ['s = "a"\n\n\n']),
        (["x = (1 + 2)\n"], ["x = 1 + 2\n"]),
        (["if x:\n  y = 1\n"], ["if x:\n    # why\n    y = 1\n"]),
        (["x = = 1\n"], ["x =  =   1\n"]),
        (["x = 1\n", ""], ["x = 1\n"]),
    ],
)
def test_programs_that_are_the_same(one: list[str], other: list[str]) -> None:
    assert form(*one) == form(*other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["x = 1\n"], ["y = 1\n"]),
        (["x = 2 * 3\n"], ["x = 6\n"]),
        (["x = 1\n", "y = 2\n"], ["y = 2\n", "x = 1\n"]),
        (["x = '# a'\n"], ["x = '# b'\n"]),
        (["if x:\n  y = 1\nz = 2\n"], ["if x:\n  y = 1\n  z = 2\n"]),
    ],
)
def test_programs_that_differ(one: list[str], other: list[str]) -> None:
    assert form(*one) != form(*other)


def test_solutions_without_code_count_by_their_words() -> None:
    said = [Step(prose="It  is 7.\n", kind="answer"), Step(prose="It is 8.\n", kind="answer")]
    assert normalized_program(said[:1]) == "It is 7."
    assert normalized_program(said[:1]) != normalized_program(said[1:])


@pytest.mark.parametrize(
    "code", ["(" * 3000, "-" * 3900 + "1", "x" * 10**6, "a." * 1900 + "a", "\0", "1 is '\\d'"]
)
def test_hostile_code_has_a_form_and_is_quiet(code: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert form(code)
    assert capfd.readouterr() == ("", "")


@given(st.text("ab#\n =1x", max_size=30))
@example("x = 1\n")
def test_a_form_never_fails_and_code_that_parses_is_read_as_python(code: str) -> None:
    found = form(code)
    try:
        read = "\n".join(map(ast.dump, ast.parse(code).body))
    except SyntaxError:
        read = " ".join(code.split())
    assert found == (read or " ".join(f"# words\n{code}".split()))


def plain_distance(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        above, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            above, row[j] = row[j], min(above + (a != b), row[j] + 1, row[j - 1] + 1)
    return row[-1]


@given(st.text("abc", max_size=40), st.text("abcd", max_size=40))
def test_the_edit_distance_is_that_of_the_textbook(one: str, other: str) -> None:
    assert edit_distance(one, other) == plain_distance(one, other)


def test_false_arithmetic_in_words_is_flagged_or_dropped() -> None:
    tree = Tree(Question("q", "52 - 18?"))
    for words in ("52 - 18 = 28", "52 - 18 = 34"):
        step = Step(prose=f"{words}, so it is 34.", answer="34", kind="answer")
        tree.nodes[tree.add(0, step)].verdict = Verdict.RIGHT
    trees = [TreeValues("t", tree)]
    report = Report()
    assert len(select_solutions(trees, CurationConfig(solutions=2), report)) >= 1
    dropped = Report()
    (kept,) = select_solutions(trees, CurationConfig(drop_false_arithmetic=True), dropped)
    assert "34" in kept.trajectory.steps[0].prose
    assert "28" not in kept.trajectory.steps[0].prose
    assert dropped.solutions["false arithmetic in words"] == 1
    assert dropped.flags == {}
