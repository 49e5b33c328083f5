"""Seeds derived from content, so that arrival order never matters."""

from hashlib import blake2b


def derive(seed: int, *parts: int | str) -> int:
    """A seed in [0, 2**31) that depends on all arguments and nothing else; the same on every
    machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (seed, *parts))
    return int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "big") >> 1
