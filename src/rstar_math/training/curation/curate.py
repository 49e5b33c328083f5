"""Chooses training data from the trees of searched problems (rStar-Math, arXiv:2501.04519,
sections 3.2 and 3.3)."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

from rstar_math.protocols import AnswerGrouper
from rstar_math.runs.results import SearchedProblem
from rstar_math.search.programs import normalized_program
from rstar_math.search.tree import ROOT
from rstar_math.search.voting import path_probabilities
from rstar_math.seeding import derive
from rstar_math.training.curation.pairs import (
    JudgedPath,
    TreeValues,
    best_first,
    final_pairs,
    step_pairs,
)
from rstar_math.training.curation.records import (
    Curated,
    CurationConfig,
    Data,
    LabelledSteps,
    Outcome,
    PrefixValue,
    SelectedSolution,
    SuspectLabel,
    TreeNodeRef,
    UnreliableProblem,
    count,
)
from rstar_math.types import SYNTHETIC, Problem

RELIABLE = 0.5
"""Least share of the judged paths that come to the reference (paper: 50 %)."""


def find_unreliable(problem: Problem, ledgers: Sequence[TreeValues]) -> UnreliableProblem | None:
    """A synthetic problem as one to leave out; None where it is none, is reliable, or nobody came
    to an answer that could be judged.

    A path weighs as likely as the policy is to write it (`search.voting.path_probabilities`): a
    search that knows the reference goes where it is found, and its paths as they are counted would
    bear it out.
    """
    if problem.source != SYNTHETIC:
        return None
    right = judged = 0.0
    for ledger in ledgers:
        mass = path_probabilities(ledger.tree)
        found = sum(mass[end.node] for end in ledger.right_ends)
        right += found
        judged += found + sum(mass[end.node] for end in ledger.wrong_ends)
    if not judged or right / judged >= RELIABLE:
        return None
    ends = sum(len(ledger.right_ends) + len(ledger.wrong_ends) for ledger in ledgers)
    return UnreliableProblem(problem.id, right / judged, ends)


async def find_label_noise(
    problem: Problem, ledgers: Sequence[TreeValues], config: CurationConfig, group: AnswerGrouper
) -> SuspectLabel | None:
    """The problem as a suspect, or None.

    Solutions that compute the same count once, since a program that is tried again, or told in
    other words, is no second witness.
    """
    if any(ledger.right[0] for ledger in ledgers):
        return None
    answers: dict[str, str] = {}
    for ledger in ledgers:
        for end in ledger.wrong_ends:
            steps = end.steps
            answers.setdefault(normalized_program(steps), steps[-1].answer or "")
    if len(answers) < config.noise_min_programs:
        return None
    given = list(answers.values())
    classes = await group(given)
    leader, votes = Counter(classes).most_common(1)[0]
    share = votes / len(given)
    if share < config.noise_min_share:
        return None
    answer = given[classes.index(leader)]
    return SuspectLabel(problem.id, problem.reference, answer, share, len(given))


def best_solutions(
    ledgers: Sequence[TreeValues], config: CurationConfig, counts: dict[str, int]
) -> list[SelectedSolution]:
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
    kept: list[SelectedSolution] = []
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
        kept.append(SelectedSolution(trajectory, end.spot, end.mean_q, end.min_q))
    count(counts, "kept", len(kept))
    count(counts, f"not among the best {config.solutions}", len(clean) - seen)
    return kept


def within_sources(
    kept: Sequence[SelectedSolution],
    sources: dict[str, str | None],
    config: CurationConfig,
    counts: dict[str, int],
) -> list[SelectedSolution]:
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


def outcomes(ledgers: Sequence[TreeValues]) -> list[Outcome]:
    """Every judged solution of a problem and whether it is right; equal texts once (ORM: Cobbe et
    al., arXiv:2110.14168)."""
    return [
        Outcome(end.ledger.tree.trajectory(end.node), end.spot, right)
        for end, right in _judged(ledgers)
    ]


def values(ledgers: Sequence[TreeValues]) -> list[PrefixValue]:
    """The prefix to every node with a judged end below, and its Q (PQM in rStar-Math's ablation,
    arXiv:2501.04519, table 8)."""
    found: list[PrefixValue] = []
    for ledger in ledgers:
        tree = ledger.tree
        for node, q in enumerate(ledger.q):
            judged = ledger.right[node] + ledger.wrong[node]
            if node != ROOT and judged and q is not None:
                spot = TreeNodeRef(ledger.strategy, node)
                found.append(PrefixValue(tree.question, tree.prefix(node), spot, q))
    return found


def labelled_steps(ledgers: Sequence[TreeValues]) -> list[LabelledSteps]:
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


def _judged(ledgers: Sequence[TreeValues]) -> Iterator[tuple[JudgedPath, bool]]:
    """The judged ends in order of creation, those of one text once, and whether they are right."""
    seen: set[str] = set()
    for ledger in ledgers:
        both = [(end, True) for end in ledger.right_ends]
        both += [(end, False) for end in ledger.wrong_ends]
        for end, right in sorted(both, key=lambda pair: pair[0].node):
            if end.text not in seen:
                seen.add(end.text)
                yield end, right


async def curate(
    searched: Iterable[SearchedProblem],
    group: AnswerGrouper,
    config: CurationConfig | None = None,
    data: Collection[Data] = ("sft", "preference"),
) -> Curated:
    """The training data that the trees hold, in the order of the problems, and counts of all that
    was dropped.

    `group` is asked for the answers of problems that nobody solved. Takes the problems one by one,
    so that a run need not fit into memory. Raises what `group` raises.
    """
    config = config or CurationConfig()
    found = Curated()
    for one in searched:
        ledgers = [TreeValues(strategy, tree) for strategy, tree in one.trees]
        drafted = find_unreliable(one.problem, ledgers)
        if drafted is not None:
            found.unreliable.append(drafted)
            count(found.report.problems, "synthetic, mostly contradicted")
            continue
        doubted = await find_label_noise(one.problem, ledgers, config, group)
        if doubted is not None:
            found.suspects.append(doubted)
            count(found.report.problems, "probably mislabelled")
            continue
        count(found.report.problems, _state(ledgers))
        found.sources[one.problem.id] = one.problem.source
        _collect(found, ledgers, config, data)
    counts = found.report.solutions
    found.solutions = within_sources(found.solutions, found.sources, config, counts)
    return found


def _collect(
    found: Curated, ledgers: list[TreeValues], config: CurationConfig, data: Collection[Data]
) -> None:
    """Add what the trees of one problem hold."""
    report = found.report
    if "sft" in data:
        found.solutions.extend(best_solutions(ledgers, config, report.solutions))
    if "preference" in data:
        for ledger in ledgers:
            pairs = step_pairs(ledger, config, report.step_pairs)
            for pair in pairs:
                report.by_depth[pair.depth] = report.by_depth.get(pair.depth, 0) + 1
            found.pairs.extend(pairs)
        found.pairs.extend(final_pairs(ledgers, config, report.final_pairs))
    if "outcome" in data:
        found.outcomes.extend(outcomes(ledgers))
    if "value" in data:
        found.values.extend(values(ledgers))
    if "steps" in data:
        found.steps.extend(labelled_steps(ledgers))


def _state(ledgers: list[TreeValues]) -> str:
    """What is known of a problem; only with both kinds of ends can there be pairs."""
    right = any(ledger.right[0] for ledger in ledgers)
    wrong = any(ledger.wrong[0] for ledger in ledgers)
    if right and wrong:
        return "right and wrong ends"
    if right or wrong:
        return "all ends right" if right else "all ends wrong"
    return "no judged end"
