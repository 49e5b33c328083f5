"""A zygote seen from the parent: how it is started, its socket, its running programs."""

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

CHILD = Path(__file__).parent / "child"
LIBRARY_FOLDERS = frozenset({"site-packages", "dist-packages"})
SYSTEM = (
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
class Setup:
    """What kind of zygote to start."""

    mode: str = "strict"
    scipy: bool = False
    skip: frozenset[str] = frozenset()
    """Layers to leave out: for tests of the tests."""

    def header(self) -> dict[str, object]:
        """The first frame to the zygote."""
        return {
            "mode": self.mode,
            "scipy": self.scipy,
            "skip": sorted(self.skip),
            "libraries": libraries(),
            "readable": readable(),
        }


def versions() -> dict[str, str]:
    """Versions of Python and the libraries that snippets see, by name; for a run's record."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def libraries() -> list[str]:
    """Folders of installed packages, real paths. Not from `sys.path`, where an editable install
    puts a whole working tree."""
    candidates = [*site.getsitepackages(), *sysconfig.get_paths().values()]
    if site.ENABLE_USER_SITE:
        candidates.append(site.getusersitepackages())
    for name in LIBRARIES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin:
            candidates.append(str(Path(spec.origin).parent.parent))
    real = [os.path.realpath(c) for c in candidates]
    return [c for c in dict.fromkeys(real) if Path(c).name in LIBRARY_FOLDERS and Path(c).is_dir()]


@cache
def readable() -> list[str]:
    """Folders and files that a snippet may read: the standard library, packages, shared objects."""
    paths = sysconfig.get_paths()
    own = [paths["stdlib"], sysconfig.get_path("platstdlib")]
    prefix_lib = Path(sys.base_prefix, "lib")
    if prefix_lib.is_dir():
        own.append(str(prefix_lib))
    real = [os.path.realpath(p) for p in (*own, *libraries(), *SYSTEM)]
    return [p for p in dict.fromkeys(real) if Path(p).exists()]


def environment() -> dict[str, str]:
    """All of a zygote's environment: nothing of the caller's but where its shared objects are."""
    fixed = {
        "PATH": "/usr/bin:/bin",
        "HOME": "/",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONHASHSEED": "0",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    if "LD_LIBRARY_PATH" in os.environ:
        fixed["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    return fixed


def _interpreter(fd: int) -> list[str]:
    # Not -I or -E, which would ignore PYTHONHASHSEED.
    flags = ["-S", "-s", "-P", "-B", "-X", "utf8"]
    return [sys.executable, *flags, str(CHILD / "__main__.py"), str(fd)]


def bwrap_arguments() -> list[str]:
    """The `bwrap` command line up to the command: own namespaces, and only the readable files."""
    program = shutil.which("bwrap")
    if program is None:
        return []
    visible = [*readable(), str(CHILD), os.path.realpath(sys.executable), sys.executable]
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
    return [
        *(program, "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc"),
        *("--unshare-uts", "--unshare-cgroup-try", "--hostname", "sandbox", "--as-pid-1"),
        *("--die-with-parent", "--cap-drop", "ALL", "--dev", "/dev", "--chdir", "/"),
        *binds,
        *links,
    ]


@cache
def bwrap_works() -> bool:
    """Whether bubblewrap is installed and allowed to make namespaces here; tried, not guessed."""
    arguments = bwrap_arguments()
    if not arguments:
        return False
    command = [*arguments, sys.executable, "-S", "-c", "pass"]
    try:
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def start(setup: Setup) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A zygote that is starting, and our end of its socket. Raises `SandboxError`."""
    if sys.platform != "linux":
        raise SandboxError(
            f"the sandbox needs Linux, and this is {sys.platform}; run it in a Linux container "
            "or virtual machine"
        )
    command: list[str] = []
    if setup.mode != "external" and "bwrap" not in setup.skip and bwrap_works():
        command = bwrap_arguments()
    elif setup.mode == "namespaces":
        raise SandboxError(
            "sandbox.mode=namespaces needs bubblewrap (`bwrap`), which is missing or not allowed "
            "to make user namespaces here; install it, or use --set sandbox.mode=strict"
        )
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(
                [*command, *_interpreter(theirs.fileno())],
                env=environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except OSError as e:
            ours.close()
            raise SandboxError(
                f"cannot start a process for the sandbox: {e.strerror}; the process table or the "
                "memory is full, or the interpreter cannot be run; free some and try again"
            ) from e
    return process, ours


START_S = 120.0
"""Longest start-up, imports and warm-up included."""
SILENCE_S = 3.0
"""Past a run's own wall limit, how long a zygote may say nothing before it is given up."""
RUNNING_AT_ONCE = 4
_sockets: "weakref.WeakSet[socket.socket]" = weakref.WeakSet()


def _after_fork() -> None:
    # A forked copy of this process must not hold the zygotes' sockets open, nor speak on them.
    for sock in list(_sockets):
        with contextlib.suppress(OSError):
            sock.close()


os.register_at_fork(after_in_child=_after_fork)
Sink = Callable[["Zygote", dict[str, Any], bytes], None]


class Zygote(asyncio.Protocol):
    """A running zygote. `busy` holds the ids that it has not answered, with their wall limits;
    `claims` the requests, by first id, that may still need its processor core for short runs."""

    def __init__(self, setup: Setup, on_reply: Sink, on_death: Callable[["Zygote"], None]):
        self.setup = setup
        self.busy: dict[int, float] = {}
        self.claims: dict[int, set[int]] = {}
        self.alive = False
        self._on_reply = on_reply
        self._on_death = on_death
        self._decoder = protocol.Decoder()
        self._transport: asyncio.Transport | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._hello: asyncio.Future[None] | None = None
        self._heard = 0.0
        self._watchdog: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int:
        """The started process: the zygote, or the bwrap around it."""
        return self._process.pid if self._process else 0

    async def start(self) -> None:
        """Start the process and wait until it is confined and warm. Raises `SandboxError`."""
        loop = asyncio.get_running_loop()
        self._process, sock = start(self.setup)
        _sockets.add(sock)
        self._hello = loop.create_future()
        try:
            await loop.create_unix_connection(lambda: self, sock=sock)
            self._write(self.setup.header())
            async with asyncio.timeout(START_S):
                await self._hello
        except TimeoutError:
            await self.stop()
            raise SandboxError(
                f"the sandbox did not start within {START_S:g} s; the machine is overloaded"
            ) from None
        except BaseException:
            await self.stop()
            raise

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the socket is ours."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes came. A zygote that breaks the protocol is given up."""
        self._heard = time.monotonic()
        try:
            for header, body in self._decoder.feed(data):
                self._receive(header, body)
        except (protocol.WireError, KeyError, TypeError, ValueError):
            self.kill()

    def _receive(self, header: dict[str, Any], body: bytes) -> None:
        if self._hello is not None and not self._hello.done():
            if "ready" in header:
                self.alive = True
                self._hello.set_result(None)
            else:
                self._hello.set_exception(SandboxError(_refusal(self.setup, str(header["error"]))))
            return
        if "slow" in header:
            self.claims.pop(header["slow"], None)
            self._on_reply(self, header, b"")
        elif header["id"] in self.busy:
            del self.busy[header["id"]]
            self._unclaim(header["id"])
            self._on_reply(self, header, body)

    def _unclaim(self, ident: int) -> None:
        for first, ids in list(self.claims.items()):
            ids.discard(ident)
            if not ids:
                del self.claims[first]

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the zygote is gone, or we closed the connection."""
        self.alive = False
        if self._watchdog is not None:
            self._watchdog.cancel()
        if self._hello is not None and not self._hello.done():
            code = self._process.poll() if self._process else None
            self._hello.set_exception(
                SandboxError(
                    "the sandbox's interpreter ended while it started "
                    f"(exit code {code}); `rstar doctor` shows what holds on this machine"
                )
            )
        self._on_death(self)

    @property
    def has_room(self) -> bool:
        """Whether another unit can be given to it now."""
        return self.alive and not self.claims and len(self.busy) < RUNNING_AT_ONCE

    def submit(self, ids: list[int], request: dict[str, object], wall_s: float) -> None:
        """Send a request for these ids, which count as busy until they are answered."""
        self._heard = time.monotonic()
        self.busy |= dict.fromkeys(ids, wall_s)
        self.claims[ids[0]] = set(ids)
        self._write(request)
        if self._watchdog is None:
            self._watch()

    def cancel(self, ident: int) -> None:
        """Ask for a run to be ended; its reply still comes, and frees its place."""
        if ident in self.busy:
            self._write({"cancel": ident})

    def _write(self, header: dict[str, object]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(protocol.encode(header))

    def _watch(self) -> None:
        """Give the zygote up when it owes an answer and has been silent for too long."""
        self._watchdog = None
        if not self.busy:
            return
        patience = max(self.busy.values()) + SILENCE_S
        left = self._heard + patience - time.monotonic()
        if left < -0.5:
            self.kill()
            return
        # A little late on purpose: when this process itself was held up, its mail is read first.
        self._watchdog = asyncio.get_running_loop().call_later(max(left + 0.6, 0.1), self._watch)

    def kill(self) -> None:
        """Kill the process; `on_death` follows."""
        if self._process is not None:
            self._process.kill()
        if self._transport is not None:
            self._transport.abort()

    async def stop(self) -> None:
        """End the process and everything below it, and reap it."""
        self.alive = False
        if self._watchdog is not None:
            self._watchdog.cancel()
        if self._transport is not None:
            self._transport.abort()
        process = self._process
        if process is None:
            return
        for _ in range(200):
            # It has seen our end of the socket close and ends its children first.
            if process.poll() is not None:
                return
            await asyncio.sleep(0.005)
        process.kill()
        process.wait()


def _refusal(setup: Setup, why: str) -> str:
    return (
        f"sandbox.mode={setup.mode} cannot hold on this machine ({why}). `rstar doctor` shows what "
        "does. Inside a container or virtual machine of your own, and only there, use "
        "--set sandbox.mode=external"
    )
