"""What else might have been made of what was found: fewer attempts, other rules of choosing."""

from collections.abc import Sequence

from rstar_math.evaluation.attempts import (
    maj_at_k,
    pass_at_k,
    rule_at_k,
    scorer_at_k,
    top_of_runs,
    weighted,
)
from rstar_math.evaluation.intervals import bootstrap
from rstar_math.evaluation.markup import Block, Heading, Paragraph, Table
from rstar_math.evaluation.recorded import TOP
from rstar_math.evaluation.series import Series
from rstar_math.evaluation.wording import percent, span
from rstar_math.search.answers import RULES


def attempts(series: Sequence[Series]) -> list[Block]:
    """Expected results of k of the recorded attempts, for strategies that have several."""
    rows: list[list[str]] = []
    for one in series:
        tried = [r.attempts for r in one.readings if r.attempts]
        n = min((len(t) for t in tried), default=0)
        if n < 2 or len(tried) < len(one.readings):
            continue
        for k in sorted({1, 2, 4, 8, 16, 32, 64, n}):
            if k > n:
                continue
            passed = [pass_at_k(len(t), sum(a.right for a in t), k) for t in tried]
            row = [one.label, str(k), _mean(passed), _mean([maj_at_k(t, k) for t in tried])]
            if any(a.value is not None for t in tried for a in t):
                row.append(_mean([scorer_at_k(t, k) for t in tried]))
                row.append(_mean([rule_at_k(t, k, weighted) for t in tried]))
                row.append(_mean([rule_at_k(t, k, top_of_runs) for t in tried]))
            else:
                row += ["-", "-", "-"]
            rows.append(row)
    if not rows:
        return []
    header = ["strategy", "k", "pass@k (ceiling)", "maj@k", "scorer@k", "weighted@k", "top 4@k"]
    return [
        Heading("Attempts"),
        Table(header, rows),
        Paragraph(
            "Expected results of k independent attempts (chains, or whole runs, each with its own "
            "answer), averaged over all choices of k among those recorded; pass@k by the unbiased "
            "estimator; top 4: the majority of the 4 with the highest score, rStar-Math's rule for "
            "its runs. Intervals are bootstrapped over problems. Strategies that stop early or "
            "spend a budget of tokens have no fixed number of attempts and are not here."
        ),
    ]


def rules(series: Sequence[Series]) -> list[Block]:
    """What each way to choose the answer makes of the same trees."""
    names = [*RULES, TOP]
    rows: list[list[str]] = []
    for one in series:
        # A problem without two answers has nothing to choose from: its result is every rule's.
        several = [r for r in one.readings if r.by_rule]
        rest = sum(r.right for r in one.readings if not r.by_rule)
        if not several:
            continue
        known = [name for name in names if any(name in r.by_rule for r in several)]
        row = [one.label]
        for name in names:
            found = sum(r.by_rule.get(name, r.by_rule["majority"]) for r in several)
            row.append(f"{found + rest}/{len(one.readings)}" if name in known else "-")
        rows.append([*row, percent(one.ceiling)])
    if not rows:
        return []
    header = ["strategy", "majority", "one vote a path", "weighted by value", "best value"]
    return [
        Heading("Ways to choose"),
        Table([*header, "top of runs", "any path right"], rows),
        Paragraph(
            "Right answers by each rule (search.answer) from the very same trees. The rule that "
            "looks best here was found on these problems, so it is a result on others alone. Top "
            "of runs: of each chain or run the path with the highest value, of these the "
            "majority of the best few."
        ),
    ]


def _mean(values: Sequence[float]) -> str:
    """A mean share with its interval."""
    return f"{100 * sum(values) / len(values):.1f} ({span(bootstrap(values, resamples=2_000))})"
