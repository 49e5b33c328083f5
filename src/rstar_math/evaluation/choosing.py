"""Does a scorer choose better answers than a vote does? On the same samples of the same problems:
the highest value (best-of-N) and votes weighted by value against the majority (self-consistency).

Both sides have the very same samples, so the policy's budget is equal by construction; what the
scorer reads comes on top and is counted.
"""

from collections.abc import AsyncIterable
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any

from rstar_math.errors import InputError
from rstar_math.evaluation.paired import Comparison, compare
from rstar_math.protocols import Grouper, Scorer, Verifier
from rstar_math.search import Tree, ballots, best, majority, weighted
from rstar_math.training.ranking import ranking_accuracy
from rstar_math.types import Verdict

RULES = {"best of N": best, "weighted vote": weighted}
"""The ways to choose by value."""


@dataclass(slots=True)
class Chosen:
    """What each way to choose came to, problem by problem."""

    voted: list[bool] = field(default_factory=list)
    """Whether the majority was right."""
    by_value: dict[str, list[bool]] = field(default_factory=lambda: {name: [] for name in RULES})
    reachable: list[bool] = field(default_factory=list)
    """Whether any sample was right: the ceiling of every way to choose."""
    single: list[float] = field(default_factory=list)
    """Share of the samples that are right, in [0, 1]: what choosing blindly comes to."""
    ranked: list[float] = field(default_factory=list)
    """Of each problem that has right and wrong samples: share of the pairs of one and the other of
    which the right one has the higher value, in [0, 1]; a tie counts half."""
    samples: int = 0
    sampled_tokens: int = 0

    def comparisons(self) -> dict[str, Comparison]:
        """The majority (first) and each way to choose by value (second). Raises `InputError` where
        there are no problems."""
        if not self.voted:
            raise InputError(
                "No problem with samples has a reference, so nothing says which answers are right; "
                "sample solutions of problems that have references."
            )
        return {name: compare(self.voted, hits) for name, hits in self.by_value.items()}

    def as_json(self) -> dict[str, Any]:
        """The figures under plain names, with a sentence for each comparison."""
        found = self.comparisons()
        return {
            "problems": len(self.voted),
            "samples": self.samples,
            "sampled_tokens": self.sampled_tokens,
            "single": sum(self.single) / len(self.voted),
            "majority": sum(self.voted) / len(self.voted),
            "any_right": sum(self.reachable) / len(self.voted),
            "right_above_wrong": sum(self.ranked) / len(self.ranked) if self.ranked else None,
            "problems_with_both": len(self.ranked),
            "against_majority": {
                name: {**asdict(one), "difference": one.difference, "sentence": sentence(name, one)}
                for name, one in found.items()
            },
        }


async def choose(
    searched: AsyncIterable[tuple[Tree, Verifier]], scorer: Scorer, group: Grouper
) -> Chosen:
    """What the rules choose on some trees, each with the judge of its answers. No rule sees a
    judgement. On a problem without any answer all are wrong.

    Raises what the scorer, the judges and `group` raise.
    """
    found = Chosen()
    async for tree, judge in searched:
        cast = ballots(tree)
        values = await scorer.score(tree.question, [tree.prefix(one.node) for one in cast])
        valued = [replace(one, value=v) for one, v in zip(cast, values, strict=True)]
        verdicts = {one.answer: await judge.judge(one.answer) for one in cast}

        def right(answer: str | None, said: dict[str, Verdict] = verdicts) -> bool:
            return answer is not None and said[answer] is Verdict.RIGHT

        found.voted.append(right((await majority(cast, group)).answer))
        for name, rule in RULES.items():
            found.by_value[name].append(right((await rule(valued, group)).answer))
        found.reachable.append(Verdict.RIGHT in verdicts.values())
        good = [one.value or 0.0 for one in valued if right(one.answer)]
        bad = [one.value or 0.0 for one in valued if not right(one.answer)]
        found.single.append(len(good) / max(1, len(cast)))
        if (share := ranking_accuracy([*product(good, bad)])) is not None:
            found.ranked.append(share)
        found.samples += len(cast)
        found.sampled_tokens += tree.cost.sampled_tokens
    return found


def sentence(name: str, found: Comparison) -> str:
    """What a comparison with the majority means for a user; the test is McNemar's at 5 %."""
    low, high = found.interval or (-1.0, 1.0)
    figures = (
        f"{100 * found.difference:+.1f} points, 95 % interval {100 * low:+.1f} to "
        f"{100 * high:+.1f}, p = {found.p:.3g}, {found.problems} problems"
    )
    if found.p < 0.05 and found.difference > 0:
        return f"Choosing by {name} beats majority voting on the same samples ({figures})."
    if found.p < 0.05:
        return (
            f"Choosing by {name} is worse than majority voting on the same samples ({figures}): do "
            "not choose answers of this policy by this model."
        )
    shown = "any difference"
    if found.detectable is not None:
        shown = f"less than {100 * found.detectable:.1f} points"
    return (
        f"It is not shown that choosing by {name} beats majority voting on the same samples "
        f"({figures}); so many problems cannot show {shown}. Keep voting, or test on more."
    )
