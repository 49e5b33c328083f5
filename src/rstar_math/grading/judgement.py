"""What a grader says of one pair of answers."""

from dataclasses import dataclass

from rstar_math.types import Verdict


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and the rule behind it."""

    verdict: Verdict
    reason: str
    """A short plain sentence; the same rule always gives the same text."""


def right(reason: str) -> Judgement:
    """A judgement that the answer equals the reference."""
    return Judgement(Verdict.RIGHT, reason)


def wrong(reason: str) -> Judgement:
    """A judgement that the answer differs from the reference."""
    return Judgement(Verdict.WRONG, reason)


def unknown(reason: str) -> Judgement:
    """A judgement that no verdict can be given."""
    return Judgement(Verdict.UNKNOWN, reason)
