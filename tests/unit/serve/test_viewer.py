"""The viewer's parts, without a browser."""

import json
import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.runs.results import Result
from rstar_math.search import Choice, Tree, to_record
from rstar_math.types import Cost, Execution, ExecutionStatus, Problem, Question, Step, Verdict
from rstar_math.viewer.export import document, policy, write_page
from rstar_math.viewer.overview import read_rounds, rounds_files, rounds_html
from rstar_math.viewer.result import result_html, rule_of, vote_shares
from rstar_math.viewer.sources import Column, TreeFile, instructive, matching_filters, open_source
from rstar_math.viewer.steps import answer_html, prose_html, step_html

MATHML = {"math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "mfrac", "msqrt", "mroot", "msub"}
MATHML |= {"msup", "msubsup", "munder", "mover", "munderover", "mtable", "mtr", "mtd", "mpadded"}
MATHML |= {"mphantom", "mstyle", "span"}


class Seen(HTMLParser):
    """The elements and attributes of some HTML, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize(
    ("text", "mathml"),
    [
        ("$x^2$", "<msup><mi>x</mi><mn>2</mn></msup>"),
        (r"\(\frac12\)", "<mfrac><mn>1</mn><mn>2</mn></mfrac>"),
        (r"so \[a_1\]", '<math display="block">'),
        (r"that is \frac{3}{4} of it", "<mfrac>"),
        (r"\boxed{\sqrt{2}}", '<span class="box"><math display="inline"><mrow><msqrt>'),
        (r"\boxed{18 inches}", '<span class="box">18 inches</span>'),
        (r"$\text{a<b}$", "<mtext>a&lt;b</mtext>"),
    ],
)
def test_formulas_become_mathml(text: str, mathml: str) -> None:
    assert mathml in prose_html(text)


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5 and then $6.",
        "I have $3 and he has 5$.",
        "$ 115 dollars or $3",
        r"\boxed{",
        r"$\nosuchthing{x}$",
        r"$\frac{1}{$",
        "US$5 or CA$7",
        "$" + "{" * 300 + "}" * 300 + "$",
        "$" + "x+" * 1000 + "x$",
    ],
)
def test_what_is_no_formula_stays_as_it_was_written(text: str) -> None:
    seen = Seen(prose_html(text))
    assert not seen.tags
    assert seen.text == text


PARTS = [
    "$", "$$", "\\(", "\\)", "\\[", "\\]", "{", "}", "<script>", "</math>", "\\text{<b>}",
    "\\href{javascript:x}{y}", "\\style{color:red}{z}", "\\class{a}{b}", "&lt;", "&#60;b&#62;",
    "\\frac{1}{2}", "x^2", " ", "5", "\u202e", "\ud800", '"', "'", "\\color{red}{x}", "\\left(",
    "\\boxed{", "\\begin{matrix}a&b\\\\c&d\\end{matrix}", "onload=", "\\mathbb{R}", "\\hspace{1em}",
    "\\",
]  # fmt: skip


@given(st.lists(st.sampled_from(PARTS), max_size=12))
def test_no_text_becomes_anything_but_text_and_formulas(parts: list[str]) -> None:
    for html in (prose_html("".join(parts)), answer_html("".join(parts))):
        seen = Seen(html)
        assert seen.tags <= MATHML
        assert not {a for a in seen.attributes if a in ("href", "style", "id", "src")}
        assert not [a for a in seen.attributes if a.startswith("on")]
        assert not re.search("[\u202e\ud800]", html)


@pytest.mark.parametrize("sign", ["\\[", "\\(", "$$", "$a "])
def test_signs_that_nothing_closes_stay_text(sign: str) -> None:
    assert prose_html(sign * 20_000) == sign * 20_000


def test_a_step_shows_words_code_output_and_error() -> None:
    tree = Tree(Question("q", "?"))
    failed = Execution(ExecutionStatus.ERROR, "17\n", "ValueError", "bad </pre>")
    step = Step(prose="# Say $x^2$.\n", code="print(17)\nraise ValueError", execution=failed)
    node = tree.nodes[tree.add(0, step)]
    node.failure = "code failed"
    html = step_html(node)
    assert "<msup>" in html
    assert '<span class="nb">print</span>' in html
    assert ">17</pre>" in html
    assert "ValueError: bad &lt;/pre&gt;" in html
    assert "The path ended here: code failed" in html


def voted() -> Tree:
    """Two paths to 3 below one step, the better valued, and one to 4 below another."""
    tree = Tree(Question("q", "?"))
    for ends, copies, value in (((0, 1), 3, 0.5), ((2,), 1, -0.5)):
        step = tree.add(0, Step(prose="# a\n", kind="step"), copies)
        for end in ends:
            answer = Step(prose=str(end), kind="answer", answer="3" if end < 2 else "4")
            tree.backup(tree.add(step, answer), value)
    return tree


@pytest.mark.parametrize(
    ("rule", "shares"),
    [
        ("majority", [1, 0.75, 0.375, 0.375, 0.25, 0.25]),
        ("best", [1, 0.75, 0.375, 0.375, 0.25, 0.25]),
        ("paths", [1, 2 / 3, 1 / 3, 1 / 3, 1 / 3, 1 / 3]),
        ("weighted", [1, 0.9, 0.45, 0.45, 0.1, 0.1]),
        ("top-of-runs", [1, 1, 1, 0, 0, 0]),
    ],
)
def test_shares_of_the_votes_follow_the_rule(rule: str, shares: list[float]) -> None:
    assert vote_shares(voted(), rule, {}) == pytest.approx(shares)


def test_a_tree_without_answers_has_no_shares() -> None:
    assert vote_shares(Tree(Question("q", "?")), "majority", {}) is None


def test_why_an_answer_won_counts_those_that_voted() -> None:
    tree = voted()
    votes = {"3": 0.75, "4": 0.25}
    all_vote = Result("q", "sc@8", Choice("3", 2, 0.75, votes), None, Cost(), {})
    html = result_html(all_vote, tree, {})
    assert "75% of the votes; 3 paths" in html
    assert "next answer is 4 with 25%" in html
    best_votes = Result("q", "mcts", Choice("3", 2, 1.0, {"3": 1.0}), None, Cost(), {})
    html = result_html(best_votes, tree, {"search.answer": "top-of-runs"})
    assert "100% of the votes; 2 of 3 paths" in html
    assert re.findall(r'<th scope="row">(\d)</th>.*?(\d+)%', html) == [("3", "100"), ("4", "0")]
    nothing = Result("q", "mcts", Choice(None, None, 0.0, {}), None, Cost(), {"<cut>": 2})
    assert "2 &lt;cut&gt;" in result_html(nothing, Tree(Question("q", "?")), {})


def result(answer: str | None, verdict: Verdict | None = None, **more: float) -> Result:
    """A result on the problem p."""
    cost = Cost(seconds=more.get("seconds", 1.0), code_failures=int(more.get("failures", 0)))
    share = more.get("share", 1.0)
    votes = {} if answer is None else {answer: 1.0}
    return Result("p", "mcts", Choice(answer, None, share, votes), verdict, cost, {})


@pytest.mark.parametrize(
    ("strategy", "conditions", "rule"),
    [
        ("mcts", {}, "majority"),
        ("mcts", {"search.answer": "weighted"}, "weighted"),
        ("gen@4", {}, "paths"),
        ("sc@8", {}, "majority"),
        ("of the future", {}, "majority"),
        ("mcts", {"search.answer": "of the future"}, "majority"),
    ],
)
def test_the_rule_is_that_of_the_run(strategy: str, conditions: dict[str, str], rule: str) -> None:
    one = Result("p", strategy, Choice("3", None, 1.0, {"3": 1.0}), None, Cost(), {})
    assert rule_of(one, voted(), conditions) == rule


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([result("3", Verdict.RIGHT)], {"solved"}),
        ([result("3", Verdict.WRONG)], {"unsolved"}),
        ([result("3")], set()),
        ([result(None, Verdict.WRONG)], {"unsolved", "silent"}),
        ([result("3", Verdict.RIGHT, share=0.4, failures=2)], {"solved", "split", "failures"}),
        ([result("3", Verdict.RIGHT), result("4", Verdict.WRONG)], {"solved", "disagreed"}),
        ([result("3", Verdict.WRONG), result("4", Verdict.WRONG)], {"unsolved"}),
        ([result("3"), result("4")], {"disagreed"}),
        ([result("3"), result(" 3")], set()),
        ([result("1/2", Verdict.RIGHT), result("0.5", Verdict.RIGHT)], {"solved"}),
        ([result("3", Verdict.RIGHT), None], {"solved", "waiting"}),
        ([None], {"waiting"}),
        ([result("3", Verdict.RIGHT, seconds=9.0)], {"solved", "slow"}),
    ],
)
def test_filters(results: list[Result | None], expected: set[str]) -> None:
    columns = []
    for at, one in enumerate(results):
        others = {f"other{i}": result("1") for i in range(3)}
        held = others if one is None else others | {"p": one}
        columns.append(Column(f"0.{at}", 0, f"s{at}", f"s{at}", held, slow_s=2.0))
    assert set(matching_filters(columns, Problem(Question("p", "?")))) == expected


def test_the_policy_names_this_style_and_this_script() -> None:
    page = document("a & <b>", live=False)
    assert "<title>a &amp; &lt;b&gt; · rstar</title>" in page
    for tag in ("script", "style"):
        (held,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = b64encode(sha256(held.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in page
        assert f"'sha256-{digest}'" in policy(live=True)
    assert not re.search(r"<[^>]+\s(on\w+|style|href|src)=", page.partition("<script>")[0])
    assert "connect-src" not in policy(live=False)


def test_a_tree_of_a_file_is_shown_in_all_three_shapes(tmp_path: Path) -> None:
    record = to_record(voted())
    shapes = {
        "bare.json": json.dumps(record),
        "solved.json": json.dumps(
            {"answer": "4", "share": 0.25, "votes": {"3": 0.75, "4": 0.25}, "node": 5}
            | {"tree": record},
            indent=1,
        ),
        "rows.jsonl": "\n".join(
            json.dumps({"strategy": s, "reference": "3", "tree": json.dumps(record)})
            for s in ("mcts", "sc@8")
        ),
    }
    for name, text in shapes.items():
        (tmp_path / name).write_text(text)
    bare, solved, rows = (open_source(tmp_path / name) for name in shapes)
    (one,) = bare.results("tree")
    assert (one.choice.answer, one.choice.share, one.choice.node) == ("3", 0.75, 2)
    (one,) = solved.results("tree")
    assert (one.choice.answer, one.choice.node) == ("4", 5)
    assert rows.strategies() == ["mcts", "sc@8"]
    assert rows.problems()[0].reference == "3"
    assert len(rows.tree("q", "sc@8")) == 6
    assert write_page([bare, rows], tmp_path / "page.html") == 3


def test_a_tree_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "tree.json"
    tree = voted()
    file.write_text(json.dumps(to_record(tree)))
    source = TreeFile(file)
    before = source.version()
    tree.add(0, Step(prose="# b\n"))
    file.write_text(json.dumps(to_record(tree)))
    assert source.version() != before
    assert len(source.tree("q", "tree")) == 7


def test_rounds_are_a_table_and_curves(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    assert read_rounds(file) == []
    for text in ("nonsense", "[]", '{"rounds": 3}', '{"rounds": [3]}'):
        file.write_text(text)
        assert read_rounds(file) == []
    rounds = [
        {"number": 1, "searched": 8, "solved": 2, "policy": {"svamp": {"greedy": {"share": 0.25}}}},
        {"number": 2, "searched": 0, "note": "<b>two</b>", "policy": {}, "done": False},
        {"number": 3, "searched": 8, "solved": 4, "policy": {"svamp": {"greedy": {"share": 0.5}}}},
    ]
    file.write_text(json.dumps({"complete": False, "rounds": rounds}))
    html = rounds_html(read_rounds(file))
    assert "&lt;b&gt;two&lt;/b&gt;" in html
    assert html.count("<svg") == 2
    assert "solved of searched, 25% to 50%" in html
    assert 'aria-label="policy svamp greedy: 0.25, 0.5"' in html
    run = tmp_path / "round-1" / "search.rstar"
    assert rounds_files([run, tmp_path / "other.rstar"]) == [file]


def test_the_page_begins_with_the_tree_that_shows_most() -> None:
    problems = [Problem(Question(f"p{number}", "?")) for number in range(3)]

    def column(strategy: str, **results: Result) -> Column:
        return Column(f"0.{strategy}", 0, strategy, strategy, results)

    right, wrong = result("3", Verdict.RIGHT), result("3", Verdict.WRONG)
    assert instructive(problems, []) is None
    assert instructive(problems, [column("mcts")]) is None
    assert instructive(problems, [column("mcts", p1=wrong, p2=right)]) == (2, "0.mcts")
    chains, trees = column("sc@8", p0=right, p1=right), column("mcts", p1=wrong, p2=right)
    assert instructive(problems, [chains, trees]) == (1, "0.mcts"), "searched by both"
