"""Samples that were not used: what the model wrote, and why it is not a step.

    with collect_rejected(tree.rejected):
        await policy.propose(...)

A collector lives in a context variable, as cost trackers do (`costs`): a policy reports its
unusable samples without knowing the search that asked.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

MAX_TEXT_CHARS = 4_000
"""Maximum length of a stored sample. The end of a longer one is cut."""
MAX_PROMPT_CHARS = 12_000
"""Maximum length of a stored prompt. The beginning of a longer one is cut."""
MAX_CHARS = 64_000
"""Maximum length of all stored samples of one search with their prompts. Further ones are only
counted (`Cost.truncated`, `Cost.malformed`)."""


@dataclass(frozen=True, slots=True, order=True)
class RejectedSample:
    """One unusable sample."""

    depth: int
    """Number of steps before it."""
    prompt: str
    """The end of the prompt that it continues, as it was sent to the model."""
    text: str
    """The beginning of what the model wrote."""
    reason: str
    """Why it is not a step, for example "cut off at the token limit"."""


_collector: ContextVar[list[RejectedSample] | None] = ContextVar(
    "rstar_math_rejected_samples", default=None
)


@contextmanager
def collect_rejected(into: list[RejectedSample]) -> Iterator[list[RejectedSample]]:
    """Append the samples that are rejected inside the block to a list, up to `MAX_CHARS` in all.

    Blocks nest; only the innermost collects.
    """
    token = _collector.set(into)
    try:
        yield into
    finally:
        _collector.reset(token)


def add_rejected(sample: RejectedSample) -> None:
    """Give a sample to the collector of this context, if there is one and it has room."""
    found = _collector.get()
    if found is not None:
        extend_rejected(found, [sample])


def extend_rejected(samples: list[RejectedSample], more: list[RejectedSample]) -> None:
    """Append samples to a list, shortened, as long as all fit in `MAX_CHARS`."""
    used = sum(len(each.prompt) + len(each.text) for each in samples)
    for sample in more:
        short = RejectedSample(
            sample.depth,
            sample.prompt[-MAX_PROMPT_CHARS:],
            sample.text[:MAX_TEXT_CHARS],
            sample.reason,
        )
        used += len(short.prompt) + len(short.text)
        if used > MAX_CHARS:
            return
        samples.append(short)
