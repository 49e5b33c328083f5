"""What a model server sent back, before anybody knows what it means."""

import json
from dataclasses import dataclass

from rstar_math.foreign import plain


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's whole answer to one request."""

    status: int
    body: bytes
    retry_after_s: float = 0.0
    """Seconds that it asks to be left alone; 0 where it does not say."""

    def json(self) -> object:
        """The body read as JSON; None where it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    @property
    def message(self) -> str:
        """What it says of an error, in at most 200 harmless characters."""
        body = self.json() or self.body[:2000].decode("utf-8", "replace")
        error = body.get("error", body) if isinstance(body, dict) else body
        said = error.get("message", error) if isinstance(error, dict) else error
        return plain(" ".join(str(said)[:2000].split()))[:200]


def retry_after_s(header: str | None) -> float:
    """Seconds of a Retry-After header; 0 where there is none or it is a date."""
    try:
        return max(0.0, float(header or "0"))
    except ValueError:
        return 0.0
