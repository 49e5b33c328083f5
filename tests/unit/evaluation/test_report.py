"""Reports: figures that agree with the run file, nothing foreign taken for markup, the same bytes
for the same runs."""

import asyncio
import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from rstar_math.errors import InputError
from rstar_math.evaluation.document import Heading, Link, Table, to_html, to_markdown
from rstar_math.evaluation.metrics import maj_at_k, scorer_at_k, top_of_runs
from rstar_math.evaluation.report import rules_section, write_report
from rstar_math.evaluation.report_sections import holm, published, published_on
from rstar_math.evaluation.results import (
    RunTerms,
    Series,
    StepOutcome,
    grade_result,
    group_by_seed,
    load_runs,
)
from rstar_math.evaluation.statistics import accuracy_by_budget, calibration, calibration_error
from rstar_math.runs.results import Result
from rstar_math.runs.store import RunStore
from rstar_math.search import Tree, majority, votes_of
from rstar_math.types import Problem, Question, Step, Verdict
from rstar_math.viewer.export import write_page
from tests.unit.evaluation.toyruns import GRADING, HOSTILE, problems, write_run
from tests.unit.toy import same_text

COUNT = 8


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "first.rstar"
    given = problems(COUNT)
    given[2] = Problem(Question(f"svamp/{HOSTILE}", f"{HOSTILE} 5, 6, 7."), HOSTILE, "svamp", "1")
    return write_run(path, "greedy,sc@8,bon@8,mcts,mcts@3x3", given)


def gathered(*paths: Path) -> list[Series]:
    return asyncio.run(load_runs(paths, GRADING))[1]


class Seen(HTMLParser):
    """Every element and attribute of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "path", "use", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag, tag


def test_the_readings_agree_with_the_run_file(run_file: Path) -> None:
    with RunStore.read(run_file) as store:
        recorded = {s: list(store.results(s)) for s in store.strategies()}
    series = gathered(run_file)
    assert [one.label for one in series] == list(recorded)
    for one in series:
        verdicts = [result.verdict == "right" for result in recorded[one.strategy]]
        assert [reading.right for reading in one.graded] == verdicts
        assert one.summary.right == sum(verdicts)
        for reading in one.graded:
            assert reading.any_right >= reading.right
            tokens = [point.tokens for point in reading.progress]
            assert tokens == sorted(tokens)
            last = reading.progress[-1]
            assert last.tokens == reading.result.cost.sampled_tokens
            assert (last.right, last.any_right) == (reading.right, reading.any_right)
            # The rule as the tree grew came in the end to what the search chose.
            assert last.right == reading.progress[-2:][0].right
    counts = {one.strategy: {len(r.attempts) for r in one.graded} for one in series}
    assert counts == {"greedy": {1}, "sc@8": {8}, "bon@8": {8}, "mcts": {1}, "mcts@3x3": {3}}


def test_expected_results_of_all_attempts_are_what_the_search_chose(run_file: Path) -> None:
    """The rules of `search.voting` are a second implementation of those of the report."""
    by_name = {one.strategy: one.graded for one in gathered(run_file)}
    for reading in by_name["sc@8"]:
        votes = Counter(a.group for a in reading.attempts if a.group is not None).most_common(2)
        if len(votes) < 2 or votes[0][1] > votes[1][1]:
            assert maj_at_k(reading.attempts, 8) == reading.right
    for reading in by_name["bon@8"]:
        values = [a.value for a in reading.attempts if a.group is not None]
        if values.count(max(v or -1.0 for v in values)) == 1:
            assert scorer_at_k(reading.attempts, 8) == reading.right
    for reading in by_name["mcts@3x3"]:
        assert top_of_runs(reading.attempts) == reading.right


def test_every_rule_is_tried_on_the_same_trees(run_file: Path) -> None:
    series = {one.strategy: one for one in gathered(run_file)}
    used = {"sc@8": "majority", "bon@8": "best", "mcts": "top-of-runs", "mcts@3x3": "top-of-runs"}
    for strategy, rule in used.items():
        readings = series[strategy].graded
        several = [reading for reading in readings if reading.by_rule]
        assert len(several) > COUNT / 2
        for reading in several:
            assert reading.by_rule[rule] == reading.right
            assert reading.any_right or not any(reading.by_rule.values())
    assert not any(reading.by_rule for reading in series["greedy"].graded)
    assert all("best" not in reading.by_rule for reading in series["sc@8"].graded)
    (_, table, _) = rules_section(list(series.values()))
    assert isinstance(table, Table)
    rows = {str(row[0]): row for row in table.rows}
    assert "greedy" not in rows
    right = sum(reading.right for reading in series["bon@8"].graded)
    assert rows["bon@8"][4] == f"{right}/{COUNT}"
    assert rows["sc@8"][3:6] == ["-", "-", "-"]


def test_an_anytime_curve_ends_at_what_was_reached_below_its_ceiling(run_file: Path) -> None:
    for one in gathered(run_file):
        points = accuracy_by_budget(one.graded)
        assert points[-1].accuracy == pytest.approx(sum(one.outcomes) / len(one.outcomes))
        assert all(p.accuracy <= p.oracle for p in points)
        assert all(a.oracle <= b.oracle for a, b in pairwise(points))


def test_stopping_early_or_a_budget_leaves_no_fixed_attempts(tmp_path: Path) -> None:
    given = problems(3)
    early = write_run(tmp_path / "a.rstar", "sc@40", given, "search.confidence=1", scored=False)
    (one,) = gathered(early)
    stopped = [r for r in one.graded if r.result.cost.saved_tokens]
    assert stopped
    assert all(r.attempts == () for r in stopped)
    budget = write_run(tmp_path / "b.rstar", "sc@4", given, "search.token_budget=300", scored=False)
    assert all(r.attempts == () for r in gathered(budget)[0].graded)


def test_runs_that_differ_in_their_seed_alone_are_pooled(tmp_path: Path) -> None:
    given = problems(4)
    runs = [
        write_run(tmp_path / "a.rstar", "sc@4", given, scored=False),
        write_run(tmp_path / "b.rstar", "sc@4", given, "search.seed=1", scored=False),
        write_run(
            tmp_path / "c.rstar", "sc@4", given, "search.seed=2", "search.max_depth=9", scored=False
        ),
    ]
    found, series = asyncio.run(load_runs(runs, GRADING))
    (group,) = group_by_seed(found, series)
    assert [one.label for one in group] == ["a: sc@4", "b: sc@4"]


def test_a_report_is_whole_self_contained_and_the_same_twice(
    run_file: Path, tmp_path: Path
) -> None:
    written = asyncio.run(
        write_report([run_file], tmp_path / "one", GRADING, write_trees=write_page)
    )
    assert [path.name for path in written] == ["report.md", "report.html", "trees-1.html"]
    again = asyncio.run(write_report([run_file], tmp_path / "two", GRADING, write_trees=write_page))
    for a, b in zip(written, again, strict=True):
        assert a.read_bytes() == b.read_bytes()
    page = written[1].read_text()
    seen = Seen(page)
    assert not seen.open or seen.open == ["html"], seen.open
    assert "script" not in seen.tags
    assert "img" not in seen.tags
    loads = {v for k, v in seen.attributes if k in ("src", "href", "xlink:href", "action")}
    assert loads
    assert all(re.fullmatch(r"#[\w-]+|trees-1\.html#r[0-9a-f]{16}", v) for v in loads)
    assert not any(k.startswith("on") for k, _ in seen.attributes)
    assert "@import" not in page
    assert page.count("<svg") >= 5
    trees = written[2].read_text()
    for place in {v.partition("#")[2] for v in loads if v.startswith("trees-1")}:
        assert f'"{place}"]' in trees  # the page's list of problems knows the place
    ids = [v for k, v in seen.attributes if k == "id"]
    assert len(ids) == len(set(ids))


def test_what_is_in_a_report(run_file: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other.rstar", "sc@8", problems(COUNT), "search.seed=5")
    written = asyncio.run(write_report([run_file, other], tmp_path, GRADING, plots=False))
    assert [path.name for path in written] == ["report.md", "report.html"]
    text = written[0].read_text()
    for heading in (
        "Results",
        "Attempts",
        "Paired comparisons",
        "Cost",
        "Failures by reason",
        "Problem by problem",
        "Published results",
        "Configuration",
    ):
        assert f"\n## {heading}\n" in text
    assert "any path right" in text
    assert re.search(r"With 8 problems a difference under [\d.]+ points", text)
    assert "theirs, rStar, arXiv:2408.06195 | rStar | LLaMA2-7B | 74.9 |" in text
    assert re.search(r"\| ours \| first: greedy \|", text)
    assert re.search(r"\| search\.seed \| 0 \| 5 \|", text)
    assert "search.rollouts" in text
    assert "<script" not in text
    assert "<img" not in text
    assert not re.search(r"(?<!\\)\]\(javascript", text)
    assert "&lt;script&gt;" in text
    rows = [line for line in text.splitlines() if line.startswith("| sv")]
    assert rows
    columns = {len(re.findall(r"(?<!\\)\|", line)) for line in rows}
    assert len(columns) == 1  # a | in a question does not end its cell


def test_a_run_without_results_says_what_to_do(tmp_path: Path) -> None:
    empty = write_run(tmp_path / "empty.rstar", "greedy", [])
    with pytest.raises(InputError, match="has no results"):
        asyncio.run(write_report([empty], tmp_path, GRADING, plots=False))


def test_an_ungraded_run_still_has_its_costs(tmp_path: Path) -> None:
    bare = [Problem(p.question) for p in problems(3)]
    path = write_run(tmp_path / "bare.rstar", "sc@4", bare, scored=False)
    written = asyncio.run(write_report([path], tmp_path, GRADING, write_trees=write_page))
    assert "| sc@4 | 0/0 | - |" in written[0].read_text()


def test_calibration_by_hand() -> None:
    steps = [StepOutcome(0.95, None, 1.0), StepOutcome(0.95, None, 0.5), StepOutcome(0.0, 0.0, 0.0)]
    bins = calibration(steps)
    assert [(b.steps, b.value, b.right) for b in bins] == [(1, 0.0, 0.0), (2, 0.95, 0.75)]
    assert calibration_error(bins) == pytest.approx((0 + 2 * 0.2) / 3)
    assert [b.value for b in calibration(steps, by_score=True)] == [0.5]
    assert calibration_error([]) is None


@pytest.mark.parametrize(("kind", "chances"), [("mcts", [0.75, 0.95]), ("rstar", [0.5, 0.9])])
def test_a_value_stands_for_a_chance_on_its_own_scale(kind: str, chances: list[float]) -> None:
    """rStar's values are shares of agreeing answers; the others count wrong ends as -1."""
    tree = Tree(Question("q", "?"))
    for value, answer in ((0.5, "1"), (0.9, "2")):
        node = tree.nodes[tree.add(0, Step(f"It is {answer}.", kind="answer", answer=answer))]
        node.visits, node.value_sum, node.closed = 1, value, True
    choice = asyncio.run(majority(votes_of(tree), same_text))
    result = Result("q", kind, choice, Verdict.RIGHT, tree.cost, {})
    problem = Problem(tree.question, "2")
    terms = RunTerms(None, "majority", by_action=kind == "rstar")
    reading = asyncio.run(grade_result(problem, result, tree, GRADING, terms))
    assert [step.q for step in reading.steps] == pytest.approx(chances)


def test_holms_correction_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_the_papers_figures_are_marked_as_theirs() -> None:
    figures = published()
    assert len(figures) > 300
    assert all(0 <= f.percent <= 100 and f.paper and f.table and f.source for f in figures)
    best = [f for f in published_on("math500") if f.row == "Qwen2.5-Math-7B rStar-Math"]
    assert [(f.table, f.percent) for f in best] == [("Table 5", 89.4)]
    assert any(f.unsure for f in figures)
    assert published_on("no such set") == []


def test_foreign_text_is_text_in_both_formats() -> None:
    table = Table(("a", "b"), [[HOSTILE, Link(HOSTILE, "trees-1.html#x", "good")]])
    markdown = "".join(to_markdown(HOSTILE, [Heading(HOSTILE), table]))
    page = "".join(to_html(HOSTILE, [Heading(HOSTILE), table], "", "default-src 'none'"))
    assert "<" not in markdown
    assert Seen(page).tags <= {
        "html", "head", "meta", "title", "style", "body", "header", "h1", "main", "h2", "div",
        "table", "thead", "tbody", "tr", "th", "td", "a",
    }  # fmt: skip
    assert markdown.count("\n# ") + markdown.startswith("# ") == 1
