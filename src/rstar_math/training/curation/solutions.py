"""Right solutions to imitate: the best of each problem that differ (rStar-Math, arXiv:2501.04519,
section 3.2)."""

from collections.abc import Sequence

from rstar_math.search.programs import normalized_program
from rstar_math.seeding import derive
from rstar_math.training.curation.ledger import Ledger, best_first
from rstar_math.training.curation.records import KeptSolution, count
from rstar_math.training.curation.settings import CurationConfig


def best_solutions(
    ledgers: Sequence[Ledger], config: CurationConfig, counts: dict[str, int]
) -> list[KeptSolution]:
    """The best right solutions of one problem, all its trees together, best first.

    Paths with failed code are out before the cut. A path that computes the same as a better one is
    a duplicate; those after the last one kept are not looked at for that. What became of every end
    is added to `counts`.
    """
    clean = [end for ledger in ledgers for end in ledger.right_ends if not end.failed]
    count(counts, "no answer", sum(ledger.unanswered for ledger in ledgers))
    count(counts, "not judged", sum(ledger.unjudged for ledger in ledgers))
    count(counts, "wrong", sum(len(ledger.wrong_ends) for ledger in ledgers))
    total = sum(len(ledger.right_ends) for ledger in ledgers)
    count(counts, "failed code", total - len(clean))
    kept: list[KeptSolution] = []
    forms: set[str] = set()
    seen = 0
    for end in best_first(clean):
        if len(kept) == config.solutions:
            break
        seen += 1
        form = normalized_program(end.steps)
        if form in forms:
            count(counts, "same program as a better one")
            continue
        forms.add(form)
        trajectory = end.ledger.tree.trajectory(end.node)
        kept.append(KeptSolution(trajectory, end.spot, end.mean_q, end.min_q))
    count(counts, "kept", len(kept))
    count(counts, f"not among the best {config.solutions}", len(clean) - seen)
    return kept


def within_sources(
    kept: Sequence[KeptSolution],
    sources: dict[str, str | None],
    config: CurationConfig,
    counts: dict[str, int],
) -> list[KeptSolution]:
    """The solutions that the cap on each source leaves, in the order given.

    All problems' best ones come before any second best; among equals, the problem's id decides as
    if by lot, so that the cap does not favour the head of a file.
    """
    if config.per_source is None:
        return list(kept)
    ranks: dict[str, int] = {}
    order: list[tuple[int, int, str, int]] = []
    for place, one in enumerate(kept):
        problem = one.trajectory.question.id
        rank = ranks[problem] = ranks.get(problem, -1) + 1
        order.append((rank, derive(0, "cap", problem), problem, place))
    taken: dict[str | None, int] = {}
    left: set[int] = set()
    for _, _, problem, place in sorted(order):
        source = sources.get(problem)
        taken[source] = taken.get(source, 0) + 1
        if taken[source] <= config.per_source:
            left.add(place)
    count(counts, "kept", len(left) - len(kept))
    count(counts, "over the cap of its source", len(kept) - len(left))
    return [one for place, one in enumerate(kept) if place in left]
