"""Derives seeds from content, so that results do not depend on the order of events."""

from hashlib import blake2b


def derive(seed: int, *parts: int | str) -> int:
    """Return a seed in [0, 2**31) that depends on the arguments only, on every machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (seed, *parts))
    return int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "big") >> 1
