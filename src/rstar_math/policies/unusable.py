"""Reports the unusable samples of one request: their cost, and what the model wrote."""

from collections.abc import Callable
from dataclasses import dataclass

from rstar_math.costs import add_cost
from rstar_math.protocols import Completion
from rstar_math.rejected import RejectedSample, add_rejected
from rstar_math.types import Cost


@dataclass(frozen=True, slots=True)
class Rejections:
    """The unusable samples of one request. Each is counted in the cost, as `truncated` or
    `malformed`, and kept with the tree (`Tree.rejected`)."""

    prompt: Callable[[], str]
    """Returns the prompt of the request; called only if a sample is rejected."""
    depth: int = 0
    """Number of steps before the samples."""

    def add(self, completion: Completion, problem: str | None) -> None:
        """Report one sample; `problem` is the reason if it was not cut off."""
        is_cut = not completion.finished
        add_cost(Cost(truncated=1) if is_cut else Cost(malformed=1))
        reason = "cut off at the token limit" if is_cut else problem or "no step"
        add_rejected(RejectedSample(self.depth, self.prompt(), completion.text, reason))
