"""The scorer that needs no second model: the policy's own confidence in its steps."""

from collections.abc import Sequence

from rstar_math.config.sections import SearchConfig
from rstar_math.errors import ModelError
from rstar_math.search.voting import confidence_of
from rstar_math.types import Question, Step


class ConfidenceScorer:
    """A `Scorer` of token log-probabilities, which are recorded with each step.

    The value is 2 c - 1 for the path's confidence c in [0, 1] (see `rstar_math.confidence`), with
    the measure and window of the configuration. It costs nothing beyond the policy's samples.
    """

    def __init__(self, config: SearchConfig) -> None:
        self._measure, self._window = config.confidence_measure, config.confidence_window

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`. Raises `ModelError` if a path has no log-probabilities."""
        return [self._value(prefix) for prefix in prefixes]

    def _value(self, prefix: Sequence[Step]) -> float:
        found = confidence_of(prefix, self._measure, self._window)
        if found is None:
            raise ModelError(
                "The steps have no token log-probabilities for search.scorer=confidence; use a "
                f"model server that returns those of {self._measure}, or another scorer."
            )
        return 2 * found - 1


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share in [0, 1] of the values lies, by linear interpolation.

    There must be a value.
    """
    ranked = sorted(values)
    position = share * (len(ranked) - 1)
    low = int(position)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (position - low) * (ranked[high] - ranked[low])
