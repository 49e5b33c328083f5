"""The sync door: one snippet, in the strict sandbox, from any thread."""

import asyncio
import atexit
import os
import threading

from rstar_math.config import SandboxConfig
from rstar_math.sandbox.child.limits import Limits
from rstar_math.sandbox.pool import Sandbox
from rstar_math.sandbox.programs import Program
from rstar_math.types import Execution

_DEFAULTS = SandboxConfig()


class _Room:
    """A pool, and the thread whose event loop it lives in."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self.sandbox = Sandbox()
        self._thread = threading.Thread(target=self._live, name="rstar-sandbox", daemon=True)
        self._thread.start()

    def _live(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def close(self) -> None:
        """End the pool and the thread."""
        asyncio.run_coroutine_threadsafe(self.sandbox.aclose(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


_room: _Room | None = None
_lock = threading.Lock()


def _open() -> _Room:
    global _room
    with _lock:
        if _room is None:
            _room = _Room()
        return _room


def _close() -> None:
    global _room
    with _lock:
        if _room is not None and _room.pid == os.getpid():
            _room.close()
        _room = None


def _forget() -> None:
    # In a forked copy of the process neither the thread nor the lock's holder exists.
    global _room, _lock
    _room, _lock = None, threading.Lock()


atexit.register(_close)
os.register_at_fork(after_in_child=_forget)


def run_snippet(
    code: str,
    *,
    wall_s: float = _DEFAULTS.wall_s,
    memory_mb: int = _DEFAULTS.memory_mb,
    output_bytes: int = _DEFAULTS.output_bytes,
) -> Execution:
    """What a program does, run alone in the strict sandbox.

    `wall_s` in seconds, of which at most `SandboxConfig.cpu_s` on the processor; `memory_mb` in
    MiB above what the warm interpreter takes; `output_bytes` as printed. Bad code is a status. The
    first call starts a pool of interpreters that all callers share until the process ends; any
    thread may call, also one that runs an event loop (which waits meanwhile), and a forked copy of
    the process. Raises `SandboxError` where code cannot be run safely.
    """
    limits = Limits(wall_s, min(_DEFAULTS.cpu_s, wall_s), memory_mb << 20, output_bytes)
    room = _open()
    work = room.sandbox.run_program(Program((), code, limits))
    return asyncio.run_coroutine_threadsafe(work, room.loop).result()
