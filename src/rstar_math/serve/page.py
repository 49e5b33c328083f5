"""What pages have in common: names of places on them, the policy of those without a script (whose
plain style is page.css), and how they are written to a file."""

from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

from rstar_math.errors import InputError
from rstar_math.whole_files import replacing

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""The content security policy of a page without any script."""


def anchor(strategy: str, problem: str) -> str:
    """The id of a result's place on the page of its run."""
    name = f"{strategy}\x1f{problem}".encode("utf-8", "surrogatepass")
    return "r" + blake2b(name, digest_size=8).hexdigest()


def write_whole(target: Path, parts: Iterable[str]) -> None:
    """Write a text file whole or not at all."""
    try:
        with (
            replacing(target) as part,
            part.open("w", encoding="utf-8", errors="replace") as file,
        ):
            file.writelines(parts)
    except OSError as error:
        raise InputError(
            f"{target} cannot be written ({error.strerror}); give another place."
        ) from error
