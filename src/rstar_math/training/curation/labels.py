"""Labels for other reward models: outcomes (ORM), values (PQM) and step labels (Math-Shepherd).

Each is proved by a judged end: a node without one below it gets no label.
"""

from collections.abc import Iterator, Sequence

from rstar_math.search.tree import ROOT
from rstar_math.training.curation.ledger import End, Ledger
from rstar_math.training.curation.records import LabelledSteps, Outcome, Spot, ValuedPrefix


def outcomes(ledgers: Sequence[Ledger]) -> list[Outcome]:
    """Every judged solution of a problem and whether it is right; equal texts once (ORM: Cobbe et
    al., arXiv:2110.14168)."""
    return [
        Outcome(end.ledger.tree.trajectory(end.node), end.spot, right)
        for end, right in _judged(ledgers)
    ]


def values(ledgers: Sequence[Ledger]) -> list[ValuedPrefix]:
    """The prefix to every node with a judged end below, and its Q (PQM in rStar-Math's ablation,
    arXiv:2501.04519, table 8)."""
    found: list[ValuedPrefix] = []
    for ledger in ledgers:
        tree = ledger.tree
        for node, q in enumerate(ledger.q):
            judged = ledger.right[node] + ledger.wrong[node]
            if node != ROOT and judged and q is not None:
                spot = Spot(ledger.strategy, node)
                found.append(ValuedPrefix(tree.question, tree.prefix(node), spot, q))
    return found


def labelled_steps(ledgers: Sequence[Ledger]) -> list[LabelledSteps]:
    """Every judged solution with a hard and a soft label for each step: whether any of the judged
    ends below it is right, and the share of them that are (Math-Shepherd, arXiv:2312.08935)."""
    found: list[LabelledSteps] = []
    for end, _ in _judged(ledgers):
        ledger = end.ledger
        path = ledger.tree.path(end.node)
        right = [ledger.right[node] for node in path]
        ends = [ledger.right[node] + ledger.wrong[node] for node in path]
        found.append(
            LabelledSteps(
                trajectory=ledger.tree.trajectory(end.node),
                spot=end.spot,
                hard=tuple(count > 0 for count in right),
                soft=tuple(count / total for count, total in zip(right, ends, strict=True)),
            )
        )
    return found


def _judged(ledgers: Sequence[Ledger]) -> Iterator[tuple[End, bool]]:
    """The judged ends in order of creation, those of one text once, and whether they are right."""
    seen: set[str] = set()
    for ledger in ledgers:
        both = [(end, True) for end in ledger.right_ends]
        both += [(end, False) for end in ledger.wrong_ends]
        for end, right in sorted(both, key=lambda pair: pair[0].node):
            if end.text not in seen:
                seen.add(end.text)
                yield end, right
