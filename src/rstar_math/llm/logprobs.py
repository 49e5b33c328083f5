"""Reads token log-probabilities from the replies of model servers."""

import math
from typing import Any

from rstar_math.confidence import LogprobOptions, summarize
from rstar_math.types import TokenStats


def openai_token_stats(logprobs: object, options: LogprobOptions) -> TokenStats | None:
    """Returns the summary of a choice's `logprobs`, of the completions route or of the chat route.

    Returns None if it has none.
    """
    if not isinstance(logprobs, dict):
        return None
    if isinstance(logprobs.get("content"), list):
        return chat_token_stats(logprobs["content"], options)
    found = logprobs.get("token_logprobs")
    sampled = [value for value in found if _is_number(value)] if isinstance(found, list) else []
    tops = logprobs.get("top_logprobs")
    alternatives = [_values(position) for position in tops] if isinstance(tops, list) else []
    return summarize(sampled, alternatives, options)


def chat_token_stats(positions: object, options: LogprobOptions) -> TokenStats | None:
    """Returns the summary of a list with one object per token: `logprob`, and `top_logprobs`, a
    list of such objects (the chat route; also llama.cpp's own). None if there is no token."""
    if not isinstance(positions, list):
        return None
    tokens = [each for each in positions if isinstance(each, dict)]
    sampled = [each["logprob"] for each in tokens if _is_number(each.get("logprob"))]
    alternatives = [_values(each.get("top_logprobs")) for each in tokens]
    return summarize(sampled, alternatives, options)


def _values(position: Any) -> list[float]:
    """Returns the log-probabilities of a position: {token: logprob}, or [{"logprob": ...}]."""
    found: list[Any] = []
    if isinstance(position, dict):
        found = [*position.values()]
    elif isinstance(position, list):
        found = [each.get("logprob") for each in position if isinstance(each, dict)]
    return [float(value) for value in found if _is_number(value)]


def _is_number(value: Any) -> bool:
    """Whether a value is a log-probability; minus infinity is one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return not math.isnan(value) and value < 1e-3
