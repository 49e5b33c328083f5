"""Finds keys and passwords in text and options, so that they are neither logged nor uploaded.

Covered are the formats of widely used keys, passwords in URLs, options whose name says that they
hold a secret, and the values of environment variables with such a name. A secret in another format
that is in no such variable is not recognised.
"""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

REDACTED = "[removed]"
_FORMATS = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{20,}\b",
    "an API key (sk-...)": r"\bsk-[A-Za-z0-9_-]{20,}",
    "a GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{30,}\b|\bgithub_pat_\w{30,}",
    "a GitLab token": r"\bglpat-[\w-]{20,}",
    "an AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a Google API key": r"\bAIza[\w-]{35}",
    "a Slack token": r"\bxox[abprs]-[\w-]{10,}",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "a bearer token": r"\b[Bb]earer +[\w.~+/-]{20,}=*",
    "a password in a URL": r"(?<=://)[^\s/:@'\"]*:[^\s/@'\"]+(?=@)",
}
_PATTERNS = {name: re.compile(pattern) for name, pattern in _FORMATS.items()}
_SECRET_NAME = re.compile(
    r"(?:^|[._-])(?:api[._-]?keys?|key|token|secrets?|password|passwd|credentials?|authorization)$",
    re.IGNORECASE,
)
"""Names of options and environment variables that hold a secret, such as api_key and HF_TOKEN; not
api_key_env, max_tokens or token_budget."""
_NAME_OF_VARIABLE = re.compile(r"key_env$")
_MIN_LENGTH = 8
"""Shorter values of environment variables are no secrets; they would match ordinary words."""


def find_secrets(text: str, known: Mapping[str, str] | None = None) -> list[str]:
    """Return a description of each kind of secret in a text; empty if none is found.

    `known` are values to look for, with their descriptions; by default `secret_variables()`.
    """
    known = secret_variables() if known is None else known
    found = [name for name, pattern in _PATTERNS.items() if pattern.search(text)]
    return found + [name for value, name in known.items() if value in text]


def redact(value: Any) -> Any:
    """Return JSON-like data with each secret replaced by `REDACTED`.

    An option whose name says that it holds a secret is replaced as a whole.
    """
    known = {**secret_variables(), **dict(_named_variables(value))}
    return _redact(value, known)


def secret_variables() -> dict[str, str]:
    """Return the values of the environment variables that hold secrets, with a description."""
    return {
        value: f"the value of ${name}"
        for name, value in os.environ.items()
        if _SECRET_NAME.search(name) and len(value) >= _MIN_LENGTH
    }


def _named_variables(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the values of the variables that options such as `api_key_env` name."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _named_variables(inner, str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _named_variables(inner, key)
    elif isinstance(value, str) and _NAME_OF_VARIABLE.search(key):
        content = os.environ.get(value, "")
        if len(content) >= _MIN_LENGTH:
            yield content, f"the value of ${value}"


def _redact(value: Any, known: Mapping[str, str], key: str = "") -> Any:
    if isinstance(value, Mapping):
        return {name: _redact(inner, known, str(name)) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_redact(inner, known, key) for inner in value]
    if not isinstance(value, str) or not value:
        return value
    if _SECRET_NAME.search(key):
        return REDACTED
    for secret in known:
        value = value.replace(secret, REDACTED)
    for pattern in _PATTERNS.values():
        value = pattern.sub(REDACTED, value)
    return value
