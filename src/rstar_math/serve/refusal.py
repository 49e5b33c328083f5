"""Saying no to a client: an HTTP status and a sentence, in the shape that OpenAI clients read."""

from collections.abc import Mapping
from typing import Any

from rstar_math.errors import InputError, RstarError

KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""The error's `type` by status; other 4xx are "invalid_request_error", 5xx "server_error"."""


class Refusal(RstarError):
    """A request that is not served, with what its client is told."""

    def __init__(
        self,
        message: str,
        status: int = 400,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        """The field of the request that is at fault, as in "rstar.seconds"."""
        self.headers = dict(headers or {})
        """Headers that belong to it, as Retry-After."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Refusal, (str(self), self.status), self.__dict__

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of an OpenAI error."""
        other = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = KINDS.get(self.status, other)
        said = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": said}


def refusal_of(error: BaseException) -> Refusal:
    """What a client is told of an error that ended its request: our own sentences whole, of others
    nothing, since they may hold what is not the client's to know."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, RstarError):
        wrong = error.exit_code == InputError.exit_code
        return Refusal(str(error), 400 if wrong else 502, code=_name(error))
    return Refusal("The server failed in an unforeseen way; its log says how.", 500, code="bug")


def _name(error: RstarError) -> str:
    """The error's class as a code: ModelUnreachable is model_unreachable."""
    name = type(error).__name__
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
