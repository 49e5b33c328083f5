"""What the replies of model servers mean: results, errors, and prompts that are too long."""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rstar_math.errors import ContextLengthError, ModelError, ModelRejectedError
from rstar_math.text import sanitize


class RouteNotFoundError(ModelError):
    """The server does not have a route."""


@dataclass(frozen=True)
class Reply:
    """A server's complete reply to one request."""

    status: int
    body: bytes
    retry_after_s: float = 0.0
    """Seconds to wait before the next request, from Retry-After; 0 if the server sent none."""

    def json(self) -> object:
        """Returns the parsed body, or None if it is not JSON. The body is parsed once."""
        return self._parsed

    @cached_property
    def _parsed(self) -> object:
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    @property
    def message(self) -> str:
        """The error message in the body, sanitized and at most 200 characters long."""
        return self.long_message[:200]

    @property
    def long_message(self) -> str:
        """The error message in the body, sanitized and at most 2,000 characters long."""
        body = self.json() or self.body[:2000].decode("utf-8", "replace")
        error = body.get("error", body) if isinstance(body, dict) else body
        message = error.get("message", error) if isinstance(error, dict) else error
        return sanitize(" ".join(str(message)[:2000].split()))

    @property
    def error(self) -> dict[str, Any]:
        """The error object in the body; {} if there is none.

        A list of faults, as FastAPI sends it, becomes an object with the `param` of the first one.
        """
        body = self.json()
        if not isinstance(body, dict):
            return {}
        if isinstance(body.get("detail"), list):
            locations = [each.get("loc") for each in body["detail"] if isinstance(each, dict)]
            names = [loc[-1] for loc in locations if isinstance(loc, list) and loc]
            return {"param": names[0]} if names else {}
        error = body.get("error", body)
        return error if isinstance(error, dict) else {}


def retry_after_s(header: str | None) -> float:
    """Returns the seconds of a Retry-After header; 0 if it is missing or holds a date."""
    try:
        return max(0.0, float(header or "0"))
    except ValueError:
        return 0.0


def check_reply(reply: Reply, url: str, route: str) -> object:
    """Returns the JSON of a successful reply.

    Raises `RouteNotFoundError` if the server lacks the route or offers the model for chat only.
    Raises `ContextLengthError` if the prompt is too long, and `ModelRejectedError` otherwise.
    """
    status = reply.status
    if status < 300:
        body = reply.json()
        if body is None:
            raise ModelRejectedError(
                f"{url} did not answer in JSON; is it an OpenAI-compatible server, "
                "and does the address end in /v1?"
            )
        return body
    message = reply.message
    if status < 400:
        raise ModelRejectedError(
            f"{url} redirects to another address (status {status}); use that address."
        )
    if status in (401, 403):
        raise ModelRejectedError(
            f"{url} rejected the API key ({message}); set the right key in the environment "
            "variable named by model.api_key_env."
        )
    chat_only = "chat/completions" in message or "chat model" in message
    if status in (404, 405) and (chat_only or "model" not in message.lower()):
        raise RouteNotFoundError(f"{url} has no {route}; does the address end in /v1?")
    if is_context_length_error(reply):
        raise ContextLengthError(f"The prompt does not fit the model's context ({message}).")
    raise ModelRejectedError(f"{url} rejected the request (status {status}: {message}).")


_CONTEXT_LENGTH = re.compile(
    r"maximum context length|context[ _]length[ _]exceeded|exceeds? (?:the )?(?:model'?s )?"
    r"(?:maximum )?context|longer than the (?:model'?s |maximum )?(?:context|model) length|"
    r"exceeds? the (?:available )?context size|exceed_context_size|"
    r"context (?:window|size|length|limit) (?:exceeded|overflow|of|is)|exceed context limit|"
    r"`?inputs`? tokens \+ `?max_new_tokens`?|`?inputs`? must have less than|prompt is too long|"
    r"prompt (?:contains|has|is) \d+ tokens|input (?:token count|is too long|length).*"
    r"(?:exceed|maximum|max)|too large for model with \d+ maximum context|"
    r"token count exceeds|tokens? (?:exceeds?|is longer than) the model",
    re.IGNORECASE,
)
"""How vLLM, SGLang, llama.cpp, TGI, OpenAI, Together, Mistral, Gemini and gateways to Anthropic say
that a prompt does not fit."""
_CONTEXT_CODES = {"context_length_exceeded", "exceed_context_size_error", "string_above_max_length"}


def is_context_length_error(reply: Reply) -> bool:
    """Return whether a reply says that the prompt does not fit the model's context."""
    if reply.status not in (400, 413, 422, 500):
        return False
    codes = {str(reply.error.get("code")), str(reply.error.get("type"))}
    return bool(codes & _CONTEXT_CODES) or _CONTEXT_LENGTH.search(reply.long_message) is not None


def error_in_body(reply: Reply) -> str | None:
    """Return what is wrong with the body of a successful reply: an error, or no JSON; else None."""
    body = reply.json()
    if body is None:
        fault = "its answer is not JSON" if reply.body.strip() else "its answer is empty"
        return f"{fault}; is it OpenAI-compatible, and does the address end in /v1?"
    if isinstance(body, dict) and body.get("error") and "choices" not in body:
        return f"an error with status {reply.status}: {json.dumps(body['error'])[:200]}"
    return None
