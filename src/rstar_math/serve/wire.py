"""What clients send. Types are taken strictly; fields that are not listed are ignored, as OpenAI
clients send many, except inside `rstar`, which is ours."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

MOST_WALKS = 1024
"""Most rollouts, chains or runs that one request may ask for; time is limited besides."""


MOST_ITEMS = 4096
"""Longest list in a request."""

T = TypeVar("T")


def _unsaid(schema: dict[str, Any]) -> None:
    """Leave the length out of the API's description: a body of so many items may be refused for
    its size first."""
    schema.pop("maxItems", None)


Items = Annotated[list[T], Field(max_length=MOST_ITEMS, fail_fast=True, json_schema_extra=_unsaid)]
"""A list that is read up to its first fault: the faults of a large body would take seconds, in
which nobody else is answered, and a gigabyte."""


class _Wire(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="ignore", strict=True, use_attribute_docstrings=True
    )


class Part(_Wire):
    """A part of a message's content."""

    type: str
    text: str | None = None


class Message(_Wire):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Items[Part] | None = None


class StreamOptions(_Wire):
    """What a stream carries besides."""

    include_usage: bool | None = None


class Wishes(_Wire):
    """How the answer is to be searched for."""

    model_config = ConfigDict(extra="forbid")

    strategy: str | None = Field(None, max_length=40)
    """As `rstar solve --strategy` takes it: mcts@16, sc@8, greedy, ..."""
    tokens: int | None = Field(None, ge=1, le=2**31)
    """Budget of sampled tokens: runs are repeated until it is spent."""
    rollouts: int | None = Field(None, ge=1, le=MOST_WALKS)
    """Walks from the root to an end, where the strategy gives no number."""
    candidates: int | None = Field(None, ge=1, le=64)
    """Next steps sampled at a node."""
    seconds: float | None = Field(None, gt=0)
    """The search ends after this time, with the best answer so far; at most what the server
    allows."""
    confidence: float | None = Field(None, gt=0.5, le=1)
    """Stop early when a majority is this sure; at 1 when no vote to come can change it."""
    context: bool = False
    """Whether the earlier turns and the system message are put before the question; by default
    the question is the last user message alone."""
    tree: bool = True
    """Whether the tree is kept for its page."""


class _Request(_Wire):
    """What both routes share."""

    model: str = Field(max_length=256)
    """rstar, or with a suffix for the strategy, as in rstar-mcts, rstar-sc8 or rstar-fast."""
    n: int | None = Field(None, ge=1, le=128)
    """Answers, each searched for under a seed of its own."""
    stop: str | Items[str] | None = None
    """Up to 4 texts before which the answer is cut."""
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    """The same seed gives the same answer, unless a limit of time ends the search; by default the
    server's seed."""
    max_tokens: int | None = Field(None, ge=1, le=2**31)
    """Most tokens of the answer's text."""
    stream: bool | None = None
    """Whether the answer comes in pieces, and what the search does before it."""
    stream_options: StreamOptions | None = None
    rstar: Wishes | None = None


class ChatRequest(_Request):
    """A request for a chat completion."""

    messages: Items[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31)
    """Most tokens of search and answer together: the search ends when they are sampled."""
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    modalities: Items[str] | None = None


class TextRequest(_Request):
    """A request for a text completion."""

    prompt: str | Items[str] | Items[int] | Items[Items[int]]
    """A question, or several."""
    echo: bool | None = None
    suffix: str | None = None
    logprobs: int | None = None
    best_of: int | None = None
