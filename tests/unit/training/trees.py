"""Trees written out by hand, and random ones.

    grown({"a": {"+": ..., }, "b": "-"})

A dictionary maps the text of a step to what follows it: another dictionary, or an end: "+" right,
"-" wrong, "?" an answer that the Verifier could not tell, "x" code that failed. What follows the
sign of an answer is the answer. A text that begins with "!" is code that failed and was survived.
"""

from collections.abc import Mapping
from typing import Any, Union

from hypothesis import strategies as st

from rstar_math.search import ROOT, Tree
from rstar_math.training.curation import SearchedProblem, SelectedPair
from rstar_math.types import Execution, ExecutionStatus, Problem, Question, Step, Verdict

Spec = Mapping[str, Union["Spec", str]]

OK = Execution(ExecutionStatus.OK)
FAILED = Execution(ExecutionStatus.ERROR, "", "NameError", "name 'x' is not defined")
_VERDICTS = {"+": Verdict.RIGHT, "-": Verdict.WRONG, "?": Verdict.UNKNOWN}


def grown(spec: Spec, q: Mapping[str, float] | None = None, problem: str = "p") -> Tree:
    """The tree of a specification; `q` sets the Q of steps by their text."""
    tree = Tree(Question(problem, f"What of {problem}?"))
    _grow(tree, ROOT, spec)
    for node in tree.nodes[1:]:
        if q and name(node.step) in q:
            node.visits, node.value_sum = 1, q[name(node.step)]
    return tree


def _grow(tree: Tree, at: int, spec: Spec) -> None:
    for text, below in spec.items():
        if isinstance(below, str) and below[0] in _VERDICTS:
            said = below[1:] or {"+": "7", "-": "8", "?": "9"}[below[0]]
            node = tree.add(at, Step(prose=f"{text}\n", kind="answer", answer=said))
            tree.nodes[node].verdict = _VERDICTS[below[0]]
            if below[0] != "?":
                tree.backup(node, 1.0 if below[0] == "+" else -1.0)
            continue
        failed = below == "x" or text.startswith("!")
        code = f"{text.strip('!')} = 1\n"
        node = tree.add(
            at, Step(prose=f"# {text}\n", code=code, execution=FAILED if failed else OK)
        )
        if isinstance(below, str):
            tree.nodes[node].failure = "code failed"
        else:
            _grow(tree, node, below)


def name(step: Step | None) -> str:
    """The text in the specification that a step was made from."""
    return "" if step is None else step.prose.strip().removeprefix("# ")


def names(steps: tuple[Step, ...]) -> str:
    """The same of some steps."""
    return " ".join(name(step) for step in steps)


def shown(pairs: list[SelectedPair]) -> list[tuple[str, str, str, float]]:
    """Pairs as (prefix, chosen, rejected, weight), by the names of their steps."""
    return [
        (names(p.pair.prefix), names(p.pair.chosen), names(p.pair.rejected), p.pair.weight)
        for p in pairs
    ]


def searched(
    *trees: Tree, reference: str | None = "7", source: str | None = "hand"
) -> SearchedProblem:
    """A problem with its trees, named t0, t1, ..."""
    question = trees[0].question
    named = tuple((f"t{index}", tree) for index, tree in enumerate(trees))
    return SearchedProblem(Problem(question, reference, source), named)


_ends = st.sampled_from(["+", "-", "+", "-", "?", "x"])


def _layer(below: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(below, min_size=1, max_size=5)


_shapes = st.recursive(_ends, _layer, max_leaves=30)


def _named(shape: Any, path: str) -> Any:
    """A shape as a specification in which every step has a name of its own."""
    if isinstance(shape, str):
        return shape
    return {
        f"{path}{chr(97 + index)}": _named(below, f"{path}{chr(97 + index)}")
        for index, below in enumerate(shape)
    }


specs: st.SearchStrategy[Spec] = _layer(_shapes).map(lambda shape: _named(shape, "s"))
"""Random specifications."""


@st.composite
def shuffled(draw: st.DrawFn, spec: Spec) -> Spec:
    """The same specification with siblings in another order."""
    order = draw(st.permutations(list(spec)))
    found: dict[str, Spec | str] = {}
    for text in order:
        below = spec[text]
        found[text] = below if isinstance(below, str) else draw(shuffled(below))
    return found
