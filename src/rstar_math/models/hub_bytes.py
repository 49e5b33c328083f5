"""How the hub's client is watched: by the file it writes to, not by its own bars."""

from collections.abc import Callable
from typing import Any

OnBytes = Callable[[int], None]
"""Called with the number of bytes that are on the disk."""


class Counted:
    """A file that tells how long it is after each piece."""

    def __init__(self, file: Any, on_bytes: OnBytes) -> None:
        self._file, self._on_bytes = file, on_bytes
        self.seek, self.tell, self.truncate = file.seek, file.tell, file.truncate

    def write(self, data: bytes) -> int:
        """Write a piece."""
        count = int(self._file.write(data))
        self._on_bytes(self._file.tell())
        return count


class Silent:
    """A bar that is not shown, for the client."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None
