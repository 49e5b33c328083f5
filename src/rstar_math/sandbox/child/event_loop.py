"""Lets asyncio run where there are no sockets: its event loop wakes itself through a pipe.

asyncio's own loop opens a socket pair and an epoll descriptor, which the filter refuses. With these
two replacements it needs only `pipe2` and `poll`, which are allowed anyway.
"""

import asyncio
import os
import selectors
from typing import Any


class _PipeEnd:
    """One end of a pipe, with the methods of a socket that the event loop calls."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """The descriptor; -1 after `close`."""
        return self._fd

    def recv(self, size: int) -> bytes:
        """Like `socket.recv`."""
        return os.read(self._fd, size)

    def send(self, data: bytes) -> int:
        """Like `socket.send`."""
        return os.write(self._fd, data)

    def close(self) -> None:
        """Close the descriptor."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _make_self_pipe(loop: Any) -> None:
    """Replaces the method of the event loop with this name."""
    # Setting O_NONBLOCK later would need F_SETFL, which is refused.
    read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    loop._ssock, loop._csock = _PipeEnd(read_end), _PipeEnd(write_end)
    loop._internal_fds += 1
    loop._add_reader(read_end, loop._read_from_self)


def replace() -> None:
    """Make the event loops and selectors that this process creates from now on work."""
    selectors.DefaultSelector = selectors.PollSelector  # type: ignore[assignment,misc]
    setattr(asyncio.SelectorEventLoop, "_make_self_pipe", _make_self_pipe)  # noqa: B010
