"""Confidence without a second model: summaries of the token log-probabilities of a text.

Lists of log-probabilities are summarized where they arrive and are not kept. Natural logarithms.

- Log-probability of the sampled tokens: mean, mean of the last W tokens ("tail"), lowest mean of W
  consecutive tokens ("lowest").
- Certainty: the Kullback-Leibler divergence of the uniform distribution on the K most probable
  tokens from the model's, -log K - mean(log p), at least 0, averaged over tokens in the same three
  ways. With K = the whole vocabulary its mean is the self-certainty of Kang et al.,
  arXiv:2502.18581; up to the constant log K it is the token confidence of DeepConf (Fu et al.,
  arXiv:2508.15260), whose group confidence is a mean over a window.

Departures: DeepConf's window is 2048 tokens and slides over the whole chain. Our steps have 20 to
200 tokens, so the default is smaller, and a window lies within one sampled text: it does not cross
the border between two steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Literal

from rstar_math.types import TokenStats

Measure = Literal["mean", "tail", "lowest", "self-certainty", "tail-certainty", "lowest-certainty"]
"""Names of the measures, the values of `search.confidence_measure`."""
_FIELDS: dict[str, str] = {
    "mean": "mean",
    "tail": "tail",
    "lowest": "lowest",
    "self-certainty": "certainty",
    "tail-certainty": "tail_certainty",
    "lowest-certainty": "lowest_certainty",
}
_MIN_LOGPROB = -100.0
"""Lower values are raised to it: servers write minus infinity as -9999 or -inf."""
_DIGITS = 5
"""Decimal digits that are kept."""


@dataclass(frozen=True, slots=True)
class LogprobOptions:
    """Which log-probabilities are requested, and how they are summarized."""

    window: int
    """Number of tokens of a window, W."""
    alternatives: int = 0
    """Number of most probable tokens per position, K; 0 requests only the sampled tokens."""


def summarize(
    logprobs: Sequence[float], alternatives: Sequence[Sequence[float]], options: LogprobOptions
) -> TokenStats | None:
    """Return the summary of one sampled text; None without tokens.

    `logprobs` has one log-probability per sampled token. `alternatives` has those of the most
    probable tokens of each position, in any order, and may be empty.
    """
    if not logprobs:
        return None
    values = [max(_MIN_LOGPROB, value) for value in logprobs]
    certainties: list[float] = []
    if options.alternatives:
        certainties = [
            _certainty(position, options.alternatives) for position in alternatives if position
        ]
    mean, tail, lowest = _three_means(values, options.window)
    if not certainties:
        return TokenStats(len(values), mean, tail, lowest)
    return TokenStats(len(values), mean, tail, lowest, *_three_means(certainties, options.window))


def _certainty(position: Sequence[float], k: int) -> float:
    """Return the certainty of one position."""
    top = [max(_MIN_LOGPROB, value) for value in sorted(position, reverse=True)[:k]]
    return max(0.0, -log(len(top)) - sum(top) / len(top))


def _three_means(values: Sequence[float], window: int) -> tuple[float, float, float]:
    """Return the mean, the mean of the last `window` values, and the lowest windowed mean."""
    size = min(window, len(values))
    total = sum(values[:size])
    lowest = total
    for at in range(size, len(values)):
        total += values[at] - values[at - size]
        lowest = min(lowest, total)
    means = (sum(values) / len(values), sum(values[-size:]) / size, lowest / size)
    mean, tail, least = (round(value, _DIGITS) for value in means)
    return mean, tail, least


def combine(steps: Sequence[TokenStats], window: int) -> TokenStats | None:
    """Return the summary of a path from those of its sampled texts; None for an empty path.

    Means are weighted by tokens. The tail takes whole tails of the last texts until `window`
    tokens are covered. The lowest window is the lowest of all texts.
    """
    if not steps:
        return None
    tokens = sum(stats.tokens for stats in steps)
    tails = _tail_weights(steps, window)
    mean = sum(stats.mean * stats.tokens for stats in steps) / tokens
    tail = sum(stats.tail * weight for stats, weight in tails) / sum(w for _, w in tails)
    lowest = min(stats.lowest for stats in steps)
    known = [s for s in steps if s.certainty is not None]
    if len(known) < len(steps):
        return TokenStats(tokens, mean, tail, lowest)
    return TokenStats(
        tokens,
        mean,
        tail,
        lowest,
        sum((s.certainty or 0.0) * s.tokens for s in steps) / tokens,
        sum((s.tail_certainty or 0.0) * w for s, w in tails) / sum(w for _, w in tails),
        min(s.lowest_certainty or 0.0 for s in steps),
    )


def _tail_weights(steps: Sequence[TokenStats], window: int) -> list[tuple[TokenStats, int]]:
    """Return the last texts with the number of tokens that each adds to the tail."""
    found: list[tuple[TokenStats, int]] = []
    for stats in reversed(steps):
        left = window - sum(weight for _, weight in found)
        if left <= 0:
            break
        found.append((stats, min(left, stats.tokens)))
    return found


def confidence(stats: TokenStats, measure: Measure) -> float | None:
    """Return a measure as a confidence in [0, 1]; None if it was not recorded.

    A log-probability x becomes exp(x), the geometric mean of the tokens' probabilities. A certainty
    c becomes 1 - exp(-c). Both maps are monotone.
    """
    value: float | None = getattr(stats, _FIELDS[measure])
    if value is None:
        return None
    return 1 - exp(-value) if measure.endswith("certainty") else exp(value)


def lowest_of(measure: Measure) -> Measure:
    """Return the lowest-window measure of a measure's family."""
    return "lowest-certainty" if measure.endswith("certainty") else "lowest"
