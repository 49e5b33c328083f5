"""From searched problems to training data: which rule is applied to what."""

from collections.abc import Collection, Iterable

from rstar_math.protocols import Grouper
from rstar_math.training.curation.labels import labelled_steps, outcomes, values
from rstar_math.training.curation.ledger import Ledger
from rstar_math.training.curation.noise import suspect
from rstar_math.training.curation.pairs import final_pairs, step_pairs
from rstar_math.training.curation.records import Curated, Data, Searched, count
from rstar_math.training.curation.reliability import unreliable
from rstar_math.training.curation.settings import CurationConfig
from rstar_math.training.curation.solutions import best_solutions, within_sources


async def curate(
    searched: Iterable[Searched],
    group: Grouper,
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
        ledgers = [Ledger(strategy, tree) for strategy, tree in one.trees]
        drafted = unreliable(one.problem, ledgers)
        if drafted is not None:
            found.unreliable.append(drafted)
            count(found.report.problems, "synthetic, mostly contradicted")
            continue
        doubted = await suspect(one.problem, ledgers, config, group)
        if doubted is not None:
            found.suspects.append(doubted)
            count(found.report.problems, "probably mislabelled")
            continue
        count(found.report.problems, _state(ledgers))
        found.sources[one.problem.id] = one.problem.source
        _take(found, ledgers, config, data)
    counts = found.report.solutions
    found.solutions = within_sources(found.solutions, found.sources, config, counts)
    return found


def _take(
    found: Curated, ledgers: list[Ledger], config: CurationConfig, data: Collection[Data]
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


def _state(ledgers: list[Ledger]) -> str:
    """What is known of a problem; only with both kinds of ends can there be pairs."""
    right = any(ledger.right[0] for ledger in ledgers)
    wrong = any(ledger.wrong[0] for ledger in ledgers)
    if right and wrong:
        return "right and wrong ends"
    if right or wrong:
        return "all ends right" if right else "all ends wrong"
    return "no judged end"
