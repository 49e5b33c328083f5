"""Preference pairs: next steps of one node, and whole solutions of one problem (rStar-Math,
arXiv:2501.04519, section 3.3)."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from rstar_math.search.programs import normalized_program
from rstar_math.search.tree import ROOT
from rstar_math.training.curation.ledger import End, Ledger, best_first, worst_first
from rstar_math.training.curation.likeness import edit_distance
from rstar_math.training.curation.records import KeptPair, Spot, count
from rstar_math.training.curation.settings import CurationConfig
from rstar_math.types import Step, StepPair

Rejects = Callable[[int, int], str | None]
"""Why a preferred and another child make no pair; None if they do."""


def step_pairs(ledger: Ledger, config: CurationConfig, counts: dict[str, int]) -> list[KeptPair]:
    """The pairs of sibling steps of one tree, nodes breadth-first.

    At each node, of the children with a right end below those of the highest Q are preferred to
    those of the lowest Q with a wrong end below; ties go by text. A child that has both may be on
    either side. What the selection brought is added to `counts` by what became of it.
    """
    rejects = _rules(ledger, config)
    found: list[KeptPair] = []
    for node in _visited(ledger, config):
        good, bad = _sides(ledger, node, config)
        kept: list[tuple[int, int]] = []
        for chosen in good:
            for rejected in bad:
                if chosen == rejected:
                    continue
                reason = rejects(chosen, rejected)
                count(counts, reason or "kept")
                if reason is None:
                    kept.append((chosen, rejected))
        found.extend(_step_pair(ledger, node, pair, 1 / len(kept)) for pair in kept)
    return found


def final_pairs(
    ledgers: Sequence[Ledger], config: CurationConfig, counts: dict[str, int]
) -> list[KeptPair]:
    """The pairs of whole solutions of one problem, all its trees together: right ones of the
    highest mean Q, without failed code, against wrong ones of the lowest.

    The verdicts order the sides, so a wrong solution may have the higher mean Q.
    """
    right = (end for ledger in ledgers for end in ledger.right_ends)
    wrong = (end for ledger in ledgers for end in ledger.wrong_ends)
    good = _different(best_first(end for end in right if not end.failed), config.final)
    bad = _different(worst_first(wrong), config.final)
    pairs = [(one, other) for one in good for other in bad if one.text != other.text]
    count(counts, "kept", len(pairs))
    count(counts, "same text on both sides", len(good) * len(bad) - len(pairs))
    return [_final_pair(one, other, 1 / len(pairs)) for one, other in pairs]


def _visited(ledger: Ledger, config: CurationConfig) -> Iterator[int]:
    """Nodes with right and wrong ends below them, breadth-first: all, or those of the path that
    always goes on to the most visited of them."""
    nodes, right, wrong = ledger.tree.nodes, ledger.right, ledger.wrong
    layer = [ROOT] if right[ROOT] and wrong[ROOT] else []
    while layer:
        yield from layer
        below = [
            child
            for node in layer
            for child in nodes[node].children
            if right[child] and wrong[child]
        ]
        if config.descend == "most-visited" and below:
            below = [min(below, key=lambda child: (-nodes[child].visits, _text(ledger, child)))]
        layer = below


def _sides(ledger: Ledger, node: int, config: CurationConfig) -> tuple[list[int], list[int]]:
    """The children of a node that are to be paired: preferred ones, and others."""
    q, right, wrong = ledger.q, ledger.right, ledger.wrong
    children = [child for child in ledger.tree.nodes[node].children if q[child] is not None]
    if len(children) < 2:
        return [], []

    def ordered(sign: int, among: list[int]) -> list[int]:
        return sorted(
            (child for child in children if among[child]),
            key=lambda child: (sign * (q[child] or 0.0), _text(ledger, child)),
        )

    good, bad = ordered(-1, right), ordered(1, wrong)
    if len(good) == 1:
        return good, [child for child in bad if child != good[0]][: config.alone]
    if len(bad) == 1:
        return [child for child in good if child != bad[0]][: config.alone], bad
    return good[: config.positives], bad[: config.negatives]


def _rules(ledger: Ledger, config: CurationConfig) -> Rejects:
    """The conditions on a pair of children."""
    best = ledger.best_right() if config.completions else []
    worst = ledger.worst_wrong() if config.completions else []

    def rejects(chosen: int, rejected: int) -> str | None:
        one, other = _text(ledger, chosen), _text(ledger, rejected)
        difference = (ledger.q[chosen] or 0.0) - (ledger.q[rejected] or 0.0)
        if one.split() == other.split():
            return "same text on both sides"
        if difference <= 0:
            return "Q not higher"
        if difference < config.margin:
            return "Q margin too small"
        if config.edits and edit_distance(one, other) < config.edits:
            return "texts too much alike"
        if not config.reworded and _same_program(ledger, chosen, rejected):
            return "same program on both sides"
        if config.completions and best[chosen] <= worst[rejected]:
            return "completions not better"
        return None

    return rejects


def _same_program(ledger: Ledger, one: int, other: int) -> bool:
    steps = _step(ledger, one), _step(ledger, other)
    forms = {normalized_program([step]) for step in steps if step.code.strip()}
    return all(step.code.strip() for step in steps) and len(forms) == 1


def _step_pair(ledger: Ledger, node: int, pair: tuple[int, int], weight: float) -> KeptPair:
    tree, (chosen, rejected) = ledger.tree, pair
    return KeptPair(
        pair=StepPair(
            question=tree.question,
            prefix=tree.prefix(node),
            chosen=(_step(ledger, chosen),),
            rejected=(_step(ledger, rejected),),
            q_chosen=ledger.q[chosen] or 0.0,
            q_rejected=ledger.q[rejected] or 0.0,
            weight=weight,
        ),
        kind="step",
        chosen=Spot(ledger.strategy, chosen),
        rejected=Spot(ledger.strategy, rejected),
        node=node,
        depth=tree.nodes[node].depth,
    )


def _final_pair(one: End, other: End, weight: float) -> KeptPair:
    assert one.mean_q is not None
    assert other.mean_q is not None
    return KeptPair(
        pair=StepPair(
            question=one.ledger.tree.question,
            prefix=(),
            chosen=one.steps,
            rejected=other.steps,
            q_chosen=one.mean_q,
            q_rejected=other.mean_q,
            weight=weight,
        ),
        kind="final",
        chosen=one.spot,
        rejected=other.spot,
        node=ROOT,
        depth=0,
    )


def _different(ends: Iterable[End], most: int) -> list[End]:
    """The first ends whose texts differ and that have a value."""
    found: dict[str, End] = {}
    for end in ends:
        if len(found) == most:
            break
        if end.mean_q is not None:
            found.setdefault(end.text, end)
    return list(found.values())


def _step(ledger: Ledger, node: int) -> Step:
    step = ledger.tree.nodes[node].step
    assert step is not None
    return step


def _text(ledger: Ledger, node: int) -> str:
    return _step(ledger, node).text
