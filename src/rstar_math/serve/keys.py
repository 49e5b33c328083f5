"""Who may ask: API keys, compared in constant time."""

import os
from collections.abc import Iterable
from hashlib import sha256
from hmac import compare_digest
from ipaddress import ip_address
from pathlib import Path

from rstar_math.errors import ConfigError, InputError

KEYS_ENV = "RSTAR_API_KEYS"
_SHORTEST = 16


class Keys:
    """Keys that are taken; without any everybody is let in."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = [sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def admit(self, authorization: str) -> bool:
        """Whether an `Authorization` header brings one of the keys. Takes as long for any of
        them."""
        scheme, _, key = authorization.partition(" ")
        given = sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        found = [compare_digest(given, digest) for digest in self._digests]
        return not found or (scheme.lower() == "bearer" and any(found))


def load_keys(file: Path | None) -> Keys:
    """The keys of a file, one a line, and of the environment variable RSTAR_API_KEYS, separated by
    commas. Raises `InputError` for a file that cannot be read or holds none, and `ConfigError` for
    a key that is too easily guessed."""
    keys = [key.strip() for key in os.environ.get(KEYS_ENV, "").split(",")]
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"The file of keys {file} cannot be read ({error}); give one with a key a line."
            ) from None
        listed = [line.strip() for line in lines if not line.lstrip().startswith("#")]
        if not any(listed):
            raise InputError(f"{file} holds no keys; put one on each line.")
        keys += listed
    keys = [key for key in keys if key]
    if any(len(key) < _SHORTEST or not key.isascii() for key in keys):
        raise ConfigError(
            f"An API key has fewer than {_SHORTEST} characters or some that are not ASCII; make "
            "one with: python -c 'import secrets; print(secrets.token_urlsafe(24))'"
        )
    return Keys(keys)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host name or address."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_open(host: str, keys: Keys) -> None:
    """Refuse to let others in without a key. Raises `ConfigError`."""
    if not is_loopback(host) and not keys:
        raise ConfigError(
            f"--host {host} lets other machines in; give keys with --api-keys FILE or {KEYS_ENV}, "
            "or leave --host out."
        )
