"""What a model server sent back, before anybody knows what it means."""

import json
from dataclasses import dataclass

from rstar_math.errors import ContextExceeded, ModelError, ModelRefused
from rstar_math.foreign import plain


class NoSuchRoute(ModelError):
    """The server does not know a path."""


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


def checked(reply: Reply, url: str, route: str) -> object:
    """The JSON of a good answer. Raises `ModelRefused` or `ContextExceeded` for any other, and
    `NoSuchRoute` where the server lacks the route or has it for chat only."""
    status = reply.status
    if status < 300:
        body = reply.json()
        if body is None:
            raise ModelRefused(
                f"{url} did not answer in JSON; is it an OpenAI-compatible server, "
                "and does the address end in /v1?"
            )
        return body
    said = reply.message
    if status < 400:
        raise ModelRefused(f"{url} sends elsewhere (status {status}); give that address.")
    if status in (401, 403):
        raise ModelRefused(
            f"{url} refused the key ({said}); put the right one into the environment "
            "variable that model.api_key_env names."
        )
    chat_only = "chat/completions" in said or "chat model" in said
    if status in (404, 405) and (chat_only or "model" not in said.lower()):
        raise NoSuchRoute(f"{url} has no {route}; does the address end in /v1?")
    if status == 400 and ("context" in said.lower() or "too long" in said.lower()):
        raise ContextExceeded(f"The prompt does not fit the model's context ({said}).")
    raise ModelRefused(f"{url} refused the request (status {status}: {said}).")
