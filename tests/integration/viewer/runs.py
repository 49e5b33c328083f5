"""Runs to look at: of the toy world, of a very large tree, of text that means harm."""

import json
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path

from rstar_math.rejected import RejectedSample
from rstar_math.runs.store import RunStore
from rstar_math.search import Choice, Tree, to_record
from rstar_math.types import Cost, Execution, ExecutionStatus, Problem, Question, Step, Verdict
from tests.unit.evaluation.toyruns import problems, write_run

HARM = (
    "<script>window.harmed = 1</script></script></pre></textarea></style>-->]]>"
    '<img src=x onerror="window.harmed = 1"><svg onload="window.harmed = 1">'
    '"\' onmouseover="window.harmed = 1" \u202e\u2066right to left\x00\x1b[31m \ud800 '
    "$\\href{javascript:window.harmed=1}{x}$ $\\text{<script>window.harmed = 1</script>}$"
)
LARGE_FORMULAS = (
    r"\rule{9999em}{9999em}",
    r"a\hspace{1000000em}b",
    r"a\kern9999em b\kern-9999em c",
    r"{a\above 9999em b}",
    r"\raise{9999em}{x}\lower{9999em}{y}\moveright{9999em}{z}\moveleft{9999em}{w}",
    r"\skew{99999999}{\hat x}",
    r"\genfrac(){9999em}{0}{a}{b}",
    r"\style{font-size:9999px;position:fixed;inset:0}{x}\class{path}{y}\color{red}{z}",
    r"\begin{matrix}" + "1&" * 120 + r"\\" + r"2\\" * 60 + r"\end{matrix}",
    "x" * 590,
    r"\LaTeX" * 90,
    r"\sqrt" * 60 + "x",
    "{" * 30 + "a" + r"\over b}" * 30,
    "x" + "^{x" * 30 + "}" * 30,
    r"\left(" * 30 + "x" + r"\right)" * 30,
    r"\sideset{}{}" * 14 + r"\sum",
    r"\def\aa{xxxxxxxx}\def\bb{\aa\aa\aa\aa\aa\aa}\def\cc{\bb\bb\bb\bb\bb\bb}\cc",
    r"\text{" + "w" * 500 + "}",
)
"""Formulas that ask for much more room than they are long, or that are as long as is converted."""
LINE = 10**6
"""Characters of the longest line."""


def write_pair(folder: Path) -> tuple[Path, Path]:
    """Two runs of the toy world on the same problems."""
    given = problems(8)
    first = write_run(folder / "first.rstar", "sc@4,mcts", given)
    second = write_run(folder / "second.rstar", "sc@4,mcts", given, "search.seed=7")
    return first, second


def grown(size: int, fan: int = 6) -> Tree:
    """A tree of `size` nodes, each inner one with `fan` children; the last node answers."""
    tree = Tree(Question("large/1", "How large may a tree be? Give $x^2$ for $x = \\frac{1}{2}$."))
    while len(tree) < size:
        at = len(tree)
        parent = (at - 1) // fan
        run = Execution(ExecutionStatus.OK, f"{at}\n")
        code = f"value_{at} = {at} ** 2\nprint(value_{at})\n"
        step = Step(prose=f"# Look at number {at}.\n", code=code, kind="code", execution=run)
        if at * fan + 1 >= size:
            words = f"Together \\boxed{{{at % 7}}}."
            step = Step(prose=words, kind="answer", answer=str(at % 7))
        tree.add(parent, step)
        tree.backup(at, 1.0 if at % 7 == 3 else -0.5)
    tree.cost = Cost(calls=size, sampled_tokens=20 * size, seconds=1.0)
    return tree


def chosen(tree: Tree) -> Choice:
    """The last answer of a tree, with all votes."""
    end = tree.answer_nodes()[-1]
    step = tree.nodes[end].step
    assert step is not None
    assert step.answer is not None
    return Choice(step.answer, end, 1.0, {step.answer: 1.0})


def write_large(path: Path, size: int) -> Path:
    """A run with one tree of `size` nodes."""
    tree = grown(size)
    with RunStore.open(path, {}) as store:
        store.add_problems([Problem(tree.question, "3")])
        store.save("mcts", tree, chosen(tree), Verdict.WRONG)
    return path


def harmful() -> Tree:
    """A tree whose every text means harm."""
    tree = Tree(Question("harm/1", HARM.replace("\ud800", "")))
    long = "A" * LINE
    failed = Execution(ExecutionStatus.ERROR, HARM, HARM, HARM + long)
    first = tree.add(0, Step(prose=f"# {HARM}\n", code=f"print('''{HARM}''')\n", kind="code"))
    second = tree.add(
        first, Step(prose=f"# {long}\n", code=f"x = '{long}'\n", kind="step", execution=failed)
    )
    tree.nodes[second].failure = HARM
    end = tree.add(first, Step(prose=HARM + long, kind="answer", answer=HARM))
    tree.backup(end, 1.0)
    tree.rejected = [RejectedSample(0, HARM, HARM, HARM)]
    return tree


def write_formulas(path: Path) -> Path:
    """A run whose question, steps, answers and reference are `LARGE_FORMULAS`."""
    display = "\n".join(f"\\[{tex}\\] or ${tex}$" for tex in LARGE_FORMULAS)
    tree = Tree(Question("formulas/1", display))
    votes = {}
    for tex in LARGE_FORMULAS:
        first = tree.add(0, Step(prose=f"# Take ${tex}$.\n", kind="step"))
        answer = tex[:190]
        end = tree.add(first, Step(prose=f"So \\boxed{{{tex}}}", kind="answer", answer=answer))
        tree.backup(end, 1.0)
        votes[answer] = 1.0
    with RunStore.open(path, {}) as store:
        store.add_problems([Problem(tree.question, r"\hspace{9999em}x^2")])
        best = max(votes, key=len)
        store.save("mcts", tree, Choice(best, tree.answer_nodes()[0], 0.1, votes), Verdict.RIGHT)
    return path


def write_harm(path: Path) -> Path:
    """A run that means harm, lone surrogates in its tree included (of which JSON can hold what the
    store itself would not write)."""
    tree, sound = harmful(), HARM.replace("\ud800", "")
    with RunStore.open(path, {"<b>key</b>": sound}) as store:
        store.add_problems([Problem(tree.question, sound, "<i>source</i>", "<u>level</u>")])
        votes = {sound: 1.0, "<script>window.harmed = 1</script>": 0.5}
        choice = Choice(sound, tree.answer_nodes()[0], 0.67, votes)
        store.save("mcts", Tree(tree.question), choice, Verdict.RIGHT)
    blob = zlib.compress(json.dumps(to_record(tree)).encode())
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE results SET tree = ?, failures = ?", (blob, json.dumps({HARM: 1})))
    return path
