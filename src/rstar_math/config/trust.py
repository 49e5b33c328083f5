"""What a configuration file may not do without the user's word on the command line.

A file from somebody else is data. It may choose models, strategies and limits, but by itself it may
not run a program, import code, weaken the sandbox, or send a key of the environment somewhere.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from rstar_math.errors import ConfigError

_PROGRAMS = {"vllm_command", "launcher"}
_PROGRAM_OPTIONS = {"servers.args", "servers.hardware_args"}
_EXTENSIONS = {
    "scorer",
    "selection",
    "strategy",
    "enabled",
    "system",
    "policy",
    "source",
    "sources",
}
_EXTENSIONS |= {"benchmarks"}
_IMPORT = re.compile(r"(?!(?:hf|gym|toy|stories|vllm):)[A-Za-z_][\w.]*:[A-Za-z_]\w*(?:@.*)?")
_DEFAULT_KEY = "OPENAI_API_KEY"


def require_trust(
    tables: Mapping[str, Any], source: str, *, overridden: Collection[str] = ()
) -> None:
    """Raise `ConfigError` for the first option of a file that needs the user's word.

    `overridden` are options, such as "servers.vllm_command", that the command line replaces.
    """
    for key, value in _options(tables):
        reason = None if key in overridden else _danger(key, value)
        if reason is not None:
            raise ConfigError(
                f"{source} sets {key}, which {reason}; add --trust-config if you trust the file's "
                "author (in Python: trusted=True), or remove the option."
            )


def _options(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every option of nested tables with its dotted key; tables in a list share its key."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _options(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple) and any(isinstance(each, Mapping) for each in value):
        for each in value:
            yield from _options(each, path)
    else:
        yield path, value


def _danger(key: str, value: Any) -> str | None:
    """Return what the option does that needs trust, or None."""
    name = key.rpartition(".")[2]
    texts = value if isinstance(value, list | tuple) else [value]
    if name in _PROGRAMS and value:
        return "runs a program"
    if key.endswith(tuple(_PROGRAM_OPTIONS)) and value:
        return "gives a server program its options"
    if name == "api_key_env":
        return "sends a variable of your environment to a server"
    if key.endswith("sandbox.mode") and value != "strict":
        return "weakens the sandbox"
    if name in _EXTENSIONS and any(_imports_code(each) for each in texts):
        return "imports code"
    if os.environ.get(_DEFAULT_KEY):  # models are named under many keys, also of a recipe's rounds
        for each in texts:
            if isinstance(each, str) and any(map(_is_remote, each.split(","))):
                return f"would receive the key in {_DEFAULT_KEY}"
    return None


def _imports_code(value: Any) -> bool:
    return isinstance(value, str) and any(
        _IMPORT.fullmatch(part.strip()) for part in value.split(",")
    )


def _is_remote(address: str) -> bool:
    """Whether an address is on another machine."""
    address = address.strip()
    if not address.startswith(("http://", "https://")):
        return False
    try:
        host = urlsplit(address).hostname or ""
        return host != "localhost" and not ip_address(host).is_loopback
    except ValueError:
        return True
