"""Starts zygotes and talks to them, in the parent process."""

import asyncio
import contextlib
import importlib.util
import os
import platform
import shutil
import site
import socket
import subprocess
import sys
import sysconfig
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from rstar_math.errors import SandboxError
from rstar_math.sandbox.child import protocol
from rstar_math.sandbox.child.scratch import MOUNT_POINTS

CHILD_FOLDER = Path(__file__).parent / "child"
PACKAGE_FOLDER_NAMES = frozenset({"site-packages", "dist-packages"})
SYSTEM_PATHS = (
    "/lib",
    "/lib64",
    "/lib32",
    "/usr/lib",
    "/usr/lib64",
    "/usr/lib32",
    "/usr/share/zoneinfo",
    "/etc/ld.so.cache",
    "/dev/urandom",
)
LIBRARIES = ("sympy", "mpmath", "numpy", "scipy")


@dataclass(frozen=True, slots=True)
class ZygoteSetup:
    """The kind of zygote to start."""

    mode: str = "strict"
    preload: str = ""
    """The library that is loaded in advance, besides sympy and numpy: one of `PRELOADED`."""
    skip: frozenset[str] = frozenset()
    """Layers to leave out, for tests that check that a layer is necessary."""

    def header(self) -> dict[str, object]:
        """The header of the first frame to the zygote."""
        return {
            "mode": self.mode,
            "preload": self.preload,
            "skip": sorted(self.skip),
            "libraries": libraries(),
            "readable": readable(),
        }


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that snippets can use, by name."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def libraries() -> list[str]:
    """The real paths of the folders with installed packages.

    They do not come from `sys.path`, where an editable install puts a whole working tree.
    """
    candidates = [*site.getsitepackages(), *sysconfig.get_paths().values()]
    if site.ENABLE_USER_SITE:
        candidates.append(site.getusersitepackages())
    for name in LIBRARIES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin:
            candidates.append(str(Path(spec.origin).parent.parent))
    real = [os.path.realpath(c) for c in candidates]
    return [
        c for c in dict.fromkeys(real) if Path(c).name in PACKAGE_FOLDER_NAMES and Path(c).is_dir()
    ]


@cache
def readable() -> list[str]:
    """The folders and files that a snippet may read.

    They hold the standard library, installed packages and shared libraries.
    """
    paths = sysconfig.get_paths()
    python = [paths["stdlib"], sysconfig.get_path("platstdlib")]
    prefix_lib = Path(sys.base_prefix, "lib")
    if prefix_lib.is_dir():
        python.append(str(prefix_lib))
    real = [os.path.realpath(p) for p in (*python, *libraries(), *SYSTEM_PATHS)]
    return [p for p in dict.fromkeys(real) if Path(p).exists()]


def environment() -> dict[str, str]:
    """The complete environment of a zygote.

    Of the caller's variables it contains only LD_LIBRARY_PATH.
    """
    variables = {
        "PATH": "/usr/bin:/bin",
        "HOME": "/",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONHASHSEED": "0",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
    }
    if "LD_LIBRARY_PATH" in os.environ:
        variables["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    return variables


def _zygote_command(fd: int) -> list[str]:
    # -I and -E are left out because they ignore PYTHONHASHSEED.
    flags = ["-S", "-s", "-P", "-B", "-X", "utf8"]
    return [sys.executable, *flags, str(CHILD_FOLDER / "__main__.py"), str(fd)]


def bwrap_arguments() -> list[str]:
    """The `bwrap` command line that precedes the command; empty if bubblewrap is not installed.

    It creates new namespaces in which only the readable files exist.
    """
    program = shutil.which("bwrap")
    if program is None:
        return []
    visible = [*readable(), str(CHILD_FOLDER), os.path.realpath(sys.executable), sys.executable]
    config = Path(sys.prefix, "pyvenv.cfg")
    if config.exists():
        visible.append(str(config))
    binds = [part for path in dict.fromkeys(visible) for part in ("--ro-bind", path, path)]
    links = [
        part
        for name in ("/lib", "/lib64")
        if os.path.islink(name)
        for part in ("--symlink", os.readlink(name), name)
    ]
    points = [part for point in MOUNT_POINTS for part in ("--dir", point)]
    return [
        *(program, "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc"),
        *("--unshare-uts", "--unshare-cgroup-try", "--hostname", "sandbox", "--as-pid-1"),
        *("--die-with-parent", "--cap-drop", "ALL", "--dev", "/dev", "--chdir", "/"),
        # In its own user namespace: the zygote mounts the scratch folders. Programs do not have it.
        *("--cap-add", "CAP_SYS_ADMIN"),
        *points,
        *binds,
        *links,
    ]


@cache
def bwrap_works() -> bool:
    """Whether bubblewrap can create namespaces here, found by running it once."""
    arguments = bwrap_arguments()
    if not arguments:
        return False
    command = [*arguments, sys.executable, "-S", "-c", "pass"]
    try:
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def start_process(setup: ZygoteSetup) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A zygote process that is starting, and the parent's end of its socket.

    Raises `SandboxError` if it cannot be started here.
    """
    if sys.platform != "linux":
        raise SandboxError(
            f"The sandbox needs Linux, and this system is {sys.platform}; use a Linux container or "
            "virtual machine."
        )
    command: list[str] = []
    if setup.mode != "external" and "bwrap" not in setup.skip and bwrap_works():
        command = bwrap_arguments()
    elif setup.mode == "namespaces":
        raise SandboxError(
            "sandbox.mode=namespaces needs bubblewrap (`bwrap`), which is missing or cannot create "
            "user namespaces here; install it, or use --set sandbox.mode=strict."
        )
    parent_end, child_end = socket.socketpair()
    with child_end:
        try:
            process = subprocess.Popen(
                [*command, *_zygote_command(child_end.fileno())],
                env=environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[child_end.fileno()],
                start_new_session=True,
            )
        except OSError as e:
            parent_end.close()
            raise SandboxError(
                f"Cannot start a process for the sandbox: {e.strerror}. The process table or the "
                f"memory is full, or {sys.executable} cannot be run. End other processes and try "
                "again."
            ) from e
    return process, parent_end


START_TIMEOUT_S = 120.0
"""Time limit for the start of a zygote, with its imports and warm-up."""
SILENCE_TIMEOUT_S = 3.0
"""Time without a message, beyond a run's wall limit, after which a zygote is killed."""
MAX_RUNNING = 4
"""Requests that a zygote handles at once. A fan-out is one request."""
_sockets: "weakref.WeakSet[socket.socket]" = weakref.WeakSet()


def _close_sockets_after_fork() -> None:
    # A forked copy of this process must neither keep the sockets open nor write to them.
    for sock in list(_sockets):
        with contextlib.suppress(OSError):
            sock.close()


os.register_at_fork(after_in_child=_close_sockets_after_fork)
ReplyHandler = Callable[["Zygote", dict[str, Any], bytes], None]


class Zygote(asyncio.Protocol):
    """A running zygote.

    It counts as using a processor core while it has a request that is not yet known to be slow.
    """

    def __init__(
        self, setup: ZygoteSetup, on_reply: ReplyHandler, on_death: Callable[["Zygote"], None]
    ) -> None:
        self.setup = setup
        self.busy: dict[int, float] = {}
        """The wall limits, in seconds, of the runs without a reply, by run id."""
        self.requests: dict[int, set[int]] = {}
        """The unfinished run ids of each request, by its first run id."""
        self.fast_requests: set[int] = set()
        """The first run ids of the requests not yet known to be slow."""
        self.alive = False
        self._on_reply = on_reply
        self._on_death = on_death
        self._decoder = protocol.Decoder()
        self._transport: asyncio.Transport | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._started: asyncio.Future[None] | None = None
        self._last_message_at = 0.0
        self._watchdog: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int:
        """The id of the process: the zygote, or the bwrap around it; 0 before it is started."""
        return self._process.pid if self._process else 0

    async def start(self) -> None:
        """Start the process and wait until it is confined and warm. Raises `SandboxError`."""
        loop = asyncio.get_running_loop()
        self._process, sock = start_process(self.setup)
        _sockets.add(sock)
        self._started = loop.create_future()
        try:
            await loop.create_unix_connection(lambda: self, sock=sock)
            self._write(self.setup.header())
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._started
        except TimeoutError:
            await self.stop()
            raise SandboxError(
                f"The sandbox did not start in {START_TIMEOUT_S:g} s; the machine is overloaded."
            ) from None
        except BaseException:
            await self.stop()
            raise

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio when the socket is connected."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Called by asyncio with received bytes. Kills a zygote that violates the protocol."""
        self._last_message_at = time.monotonic()
        try:
            for header, body in self._decoder.feed(data):
                self._receive(header, body)
        except (protocol.WireError, KeyError, TypeError, ValueError):
            self.kill()

    def _receive(self, header: dict[str, Any], body: bytes) -> None:
        if self._started is not None and not self._started.done():
            if "ready" in header:
                self.alive = True
                self._started.set_result(None)
            else:
                message = _confinement_message(self.setup, str(header["error"]))
                self._started.set_exception(SandboxError(message))
            return
        if "slow" in header:
            self.fast_requests.discard(header["slow"])
            self._on_reply(self, header, b"")
        elif header["id"] in self.busy:
            del self.busy[header["id"]]
            self._remove_from_request(header["id"])
            self._on_reply(self, header, body)

    def _remove_from_request(self, run_id: int) -> None:
        for first, ids in list(self.requests.items()):
            ids.discard(run_id)
            if not ids:
                del self.requests[first]
                self.fast_requests.discard(first)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio when the zygote is gone or the connection is closed here."""
        self.alive = False
        if self._watchdog is not None:
            self._watchdog.cancel()
        if self._started is not None and not self._started.done():
            code = self._process.poll() if self._process else None
            self._started.set_exception(
                SandboxError(
                    f"The sandbox's interpreter exited while starting (exit code {code}); run "
                    "`rstar doctor` to see which layers work on this machine."
                )
            )
        self._on_death(self)

    @property
    def has_room(self) -> bool:
        """Whether it can accept another request now."""
        return self.alive and not self.fast_requests and len(self.requests) < MAX_RUNNING

    def submit(self, ids: list[int], request: dict[str, object], wall_s: float) -> None:
        """Send a request for these run ids. They count as busy until their replies arrive."""
        self._last_message_at = time.monotonic()
        self.busy |= dict.fromkeys(ids, wall_s)
        self.requests[ids[0]] = set(ids)
        self.fast_requests.add(ids[0])
        self._write(request)
        if self._watchdog is None:
            self._watch()

    def cancel(self, run_id: int) -> None:
        """Ask the zygote to end a run. The run counts as busy until its reply arrives."""
        if run_id in self.busy:
            self._write({"cancel": run_id})

    def _write(self, header: dict[str, object]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(protocol.encode(header))

    def _watch(self) -> None:
        """Kill the zygote if a reply is due and it has been silent for too long."""
        self._watchdog = None
        if not self.busy:
            return
        timeout = max(self.busy.values()) + SILENCE_TIMEOUT_S
        left = self._last_message_at + timeout - time.monotonic()
        if left < -0.5:
            self.kill()
            return
        # Check a little late: if this process itself was suspended, it first reads the messages
        # that arrived meanwhile.
        self._watchdog = asyncio.get_running_loop().call_later(max(left + 0.6, 0.1), self._watch)

    def kill(self) -> None:
        """Kill the process. `on_death` is called later."""
        if self._process is not None:
            self._process.kill()
        if self._transport is not None:
            self._transport.abort()

    async def stop(self) -> None:
        """End the process and its children, and reap it."""
        self.alive = False
        if self._watchdog is not None:
            self._watchdog.cancel()
        if self._transport is not None:
            self._transport.abort()
        process = self._process
        if process is None:
            return
        for _ in range(200):
            # The zygote sees the closed socket, ends its children and exits.
            if process.poll() is not None:
                return
            await asyncio.sleep(0.005)
        process.kill()
        process.wait()


def _confinement_message(setup: ZygoteSetup, reason: str) -> str:
    return (
        f"sandbox.mode={setup.mode} does not work on this machine: {reason}. Run `rstar doctor` to "
        "see which layers work. Use --set sandbox.mode=external only inside a container or virtual "
        "machine of your own."
    )
