"""Request fields that a server refuses, and what is sent instead.

OpenAI-compatible servers differ in the fields they accept. When a server refuses one, the request
is changed, and the change is remembered for all later requests to that server.
"""

import logging
import re
from typing import Any

from rstar_math.llm.replies import Reply, is_context_length_error

LOG = logging.getLogger("rstar_math")
_REFUSING_STATUSES = frozenset({400, 422, 501})
_REFUSAL = re.compile(
    r"not support|unsupported|not allow|not permitted|not available|not implemented|unknown|"
    r"unrecogni[sz]ed|unexpected|extra|invalid|must be|should be|only|at most|no more than|maximum|"
    r"too many|too long|exceed|cannot|can't|does not|doesn't|deprecated|forbidden|instead|greater",
    re.IGNORECASE,
)
_OPTIONAL_FIELDS = (
    "continue_final_message",
    "add_generation_prompt",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_logprobs",
    "logprobs",
    "n_probs",
    "seed",
    "stop",
    "n",
)
"""Fields in the order in which a message is searched for them: specific names first."""
_ALIASES = {"stop": r"stop(?:[ _-]?(?:sequences?|strings?|words?))?", "n": r"(?<![\w'])n(?![\w'])"}
_MAX_STOPS = 4
"""Number of stop strings that most hosted servers accept."""


class Workarounds:
    """The changes that one server needs, learned from its refusals."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.dropped: set[str] = set()
        """Fields that are not sent."""
        self.one_sample = False
        """Whether a request may ask for one sample only."""
        self.few_stops = False
        """Whether only the first four stop strings are sent; texts are cut at all of them here."""
        self.renamed_limit = False
        """Whether `max_tokens` is sent as `max_completion_tokens`."""
        self.max_tokens: int | None = None
        """Largest value of `max_tokens` that the server accepts."""

    def apply(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return a request's body with all changes."""
        body = {key: value for key, value in body.items() if key not in self.dropped}
        if self.one_sample and "n" in body:
            body["n"] = 1
        if self.few_stops and "stop" in body:
            body["stop"] = body["stop"][:_MAX_STOPS]
        if self.max_tokens is not None and "max_tokens" in body:
            body["max_tokens"] = min(body["max_tokens"], self.max_tokens)
        if self.renamed_limit and "max_tokens" in body:
            body["max_completion_tokens"] = body.pop("max_tokens")
        return body

    def learn(self, reply: Reply, body: dict[str, Any]) -> bool:
        """Return whether a reply refuses a field of `body` for which there is another way.

        The user is told once per change.
        """
        if reply.status not in _REFUSING_STATUSES:
            return False
        field = refused_field(reply, body)
        change = None if field is None else self._change(field, body, reply.long_message)
        if change is None:
            return False
        LOG.warning("%s refuses the field %s; %s", self._url, field, change)
        return True

    def _change(self, field: str, body: dict[str, Any], message: str) -> str | None:
        """Make the next change for a field; None if there is none left."""
        if field in ("max_tokens", "max_completion_tokens"):
            return self._change_limit(field, body[field], message)
        if field == "n" and body["n"] > 1 and not self.one_sample:
            self.one_sample = True
            return "one sample is requested at a time"
        if field == "stop" and len(body["stop"]) > _MAX_STOPS and not self.few_stops:
            self.few_stops = True
            return "the first four stop strings are sent, and texts are cut at all of them"
        self.dropped.add(field)
        return "it is left out"

    def _change_limit(self, field: str, value: int, message: str) -> str | None:
        """Rename or lower the token limit. It is never left out: samples would have no end."""
        if field == "max_tokens" and "max_completion_tokens" in message and not self.renamed_limit:
            self.renamed_limit = True
            return "max_completion_tokens is sent instead"
        smaller = [n for text in re.findall(r"\d{1,9}", message) if 0 < (n := int(text)) < value]
        if not smaller:
            return None
        self.max_tokens = max(smaller)
        return f"it is at most {self.max_tokens} from now on"


def refused_field(reply: Reply, body: dict[str, Any]) -> str | None:
    """Return the field of a request that an error reply is about, or None."""
    if is_context_length_error(reply):
        return None
    named = reply.error.get("param")
    if isinstance(named, str) and named in body and named in _OPTIONAL_FIELDS:
        return named
    message = reply.long_message
    for field in _OPTIONAL_FIELDS:
        pattern = rf"(?<![\w]){_ALIASES.get(field, re.escape(field))}(?![\w])"
        if field in body and re.search(pattern, message) and _REFUSAL.search(message):
            return field
    return None
