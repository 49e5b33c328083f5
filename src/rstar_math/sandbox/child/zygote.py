"""A zygote: interpreter with the mathematics loaded and warm, confined, waiting for requests."""

import contextlib
import fcntl
import importlib
import io
import json
import os
import resource
import signal
import site
import socket
import sys
from collections.abc import Callable, Iterable
from typing import Any

from . import confinement, execution, kernel, protocol, seccomp
from .confinement import Layers, Unconfined
from .protocol import Limits
from .supervisor import Supervisor

LOWEST = 10
"""Where the socket to the parent goes, or above."""
_PRELOAD = """
math cmath decimal fractions statistics random itertools functools operator collections
collections.abc heapq bisect string re json datetime time calendar copy dataclasses enum typing
types abc contextlib array struct textwrap pprint numbers hashlib zlib base64 binascii io inspect
traceback warnings platform locale unicodedata secrets queue graphlib concurrent.futures
subprocess multiprocessing threading mpmath sympy sympy.abc sympy.stats sympy.combinatorics
sympy.geometry sympy.ntheory sympy.functions sympy.parsing.sympy_parser numpy numpy.random
numpy.linalg numpy.fft numpy.polynomial
"""
_SCIPY = """
scipy scipy.optimize scipy.integrate scipy.stats scipy.linalg scipy.special scipy.interpolate
scipy.sparse scipy.spatial
"""
WARM_UP = """
from sympy import *
x, y, n = symbols("x y n")
solve(x**2 - 5*x + 6, x); solve([x + y - 3, x - y - 1], [x, y]); solve(x**3 - 2*x + 1, x)
solveset(x**2 - 4, x, domain=S.Reals); simplify((x**2 - 1)/(x - 1)); simplify(sin(x)**2 + cos(x)**2)
integrate(x**2*exp(-x), (x, 0, oo)); integrate(sin(x)*x, x); diff(sin(x)*exp(x), x)
limit(sin(x)/x, x, 0); series(exp(x), x, 0, 4); summation(n**2, (n, 1, x)); factor(x**4 - 1)
expand((x + y)**4); Matrix([[1, 2], [3, 4]]).inv(); Matrix([[2, 1], [1, 2]]).eigenvals()
nsimplify(0.5); sqrt(8); Rational(3, 6).evalf(20); latex(sqrt(x)/2); factorint(360); N(pi, 30)
sqrtdenest(sqrt(3 + 2*sqrt(2))); radsimp(1/(1 + sqrt(2))); trigsimp(sin(2*x)); apart(1/(x**2 - 1))
solve(sqrt(x + 1) - 2, x); solve(sin(x) - Rational(1, 2), x); nsolve(cos(x) - x, 1)
str(solve(x**2 + x + 1, x)); Sum(1/n**2, (n, 1, oo)).doit(); solve(x**2 - 4 > 0, x)
""".strip().splitlines()
WARM_UP_NUMPY = """
import numpy as np
np.linalg.solve(np.eye(3), np.ones(3)); np.linalg.eig(np.eye(3)); str(np.arange(5) / 3)
np.random.rand(3); np.polyfit([1, 2, 3], [1, 2, 3], 1); np.roots([1, -3, 2])
""".strip().splitlines()


def main(fd: int) -> None:
    """Serve the parent at the other end of socket `fd` until it goes away."""
    if kernel.LINUX:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGTERM)
    control = _move_up(fd)
    try:
        setup = _first_frame(control)
        layers = _prepare(setup)
        judge = Supervisor(control, layers)
    except Exception as e:
        with contextlib.suppress(OSError):
            control.sendall(protocol.encode({"error": f"{e}" or type(e).__name__}))
        os._exit(1)
    judge.send({"ready": os.getpid(), "landlock": layers.abi, "base": layers.base_memory})
    judge.serve()
    os._exit(0)


def _move_up(fd: int) -> socket.socket:
    """The socket on a high number, and number 3 taken for good: children put their report there."""
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, LOWEST)
    os.close(fd)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    if null != execution.REPORT:
        os.dup2(null, execution.REPORT, inheritable=False)
        os.close(null)
    return socket.socket(fileno=high)


def _first_frame(control: socket.socket) -> dict[str, Any]:
    decoder = protocol.Decoder()
    while True:
        data = control.recv(1 << 16)
        if not data:
            os._exit(0)
        for setup, _ in decoder.feed(data):
            return setup


def _prepare(setup: dict[str, Any]) -> Layers:
    os.chdir("/")
    # What the parent needed to start this interpreter is nothing that a snippet need see.
    for name in ("LD_LIBRARY_PATH", "RSTAR_FIXED"):
        os.environ.pop(name, None)
    sys.path[:] = [p for p in sys.path if p] + list(setup["libraries"])
    sys.argv[:] = [""]
    sys.orig_argv[:] = [""]
    sys.set_int_max_str_digits(0)
    site.setquit()
    site.sethelper()
    _preload((_PRELOAD + (_SCIPY if setup["scipy"] else "")).split())
    _warm_up()
    _seed()
    if "prepared" not in setup["skip"]:
        execution.prepare()
    _open_streams()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = 8192 if files == resource.RLIM_INFINITY else min(files, 8192)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    layers = Layers(setup["mode"], setup["skip"], setup["readable"])
    if layers.on("huge_pages"):
        kernel.use_huge_pages()
    layers.confine_zygote()
    if not setup["skip"]:
        check(layers)
    return layers


def _open_streams() -> None:
    """Line by line, so that what was printed before a time-out is there; no character fails."""
    sys.stdout = _stream(1)
    sys.stderr = _stream(2)
    sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    execution.bind_streams()


def _stream(fd: int) -> io.TextIOWrapper:
    raw = io.FileIO(fd, "w", closefd=False)
    buffer = io.BufferedWriter(raw)
    return io.TextIOWrapper(buffer, "utf-8", "backslashreplace", "\n", line_buffering=True)


def _preload(names: Iterable[str]) -> None:
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _warm_up() -> None:
    """Run typical calls once: the first `solve` in a process costs 100 ms and more."""
    for lines in (WARM_UP, WARM_UP_NUMPY):
        scope: dict[str, object] = {}
        for line in lines:
            with contextlib.suppress(Exception):
                exec(line, scope)


def _seed() -> None:
    """The generators that forks inherit as they are; `random` itself is seeded in each child."""
    for name, function in (("numpy.random", "seed"), ("sympy.core.random", "seed")):
        module = sys.modules.get(name)
        if module is not None:
            getattr(module, function)(execution.SEED)


def check(layers: Layers) -> None:
    """Try in a throw-away child what must not work; raises `Unconfined` naming what did."""
    pid = os.fork()
    if pid == 0:
        leaks = 64
        try:
            layers.confine_child(Limits(10, 10, 256 << 20, 1024))
            leaks = _leaks(layers)
        finally:
            os._exit(leaks)
    status = os.waitpid(pid, 0)[1]
    leaks = os.waitstatus_to_exitcode(status)
    if leaks:
        names = [name for bit, name in enumerate(_TRIALS) if leaks > 0 and leaks & 1 << bit]
        raise Unconfined(f"a trial run could {', '.join(names) or f'not be confined ({leaks})'}")


def _leaks(layers: Layers) -> int:
    trials: dict[str, tuple[bool, Callable[[], object]]] = {
        "read a file": (layers.on("landlock"), lambda: os.open("/etc/passwd", os.O_RDONLY)),
        "open a socket": (layers.on("seccomp"), socket.socket),
        "start a process": (layers.on("seccomp"), os.fork),
    }
    leaks = 0
    for bit, (expected, attempt) in enumerate(trials.values()):
        if expected:
            try:
                attempt()
                leaks |= 1 << bit
            except OSError:
                continue
    return leaks


_TRIALS = ("read a file", "open a socket", "start a process")
Finding = tuple[bool, str]
RULED = 7
"""Calls of the filter that are allowed by their arguments."""


def try_descriptors() -> Finding:
    """Nothing inherited stays open."""
    extra = os.dup(0)
    confinement.close_all_but([1])
    try:
        os.fstat(extra)
    except OSError:
        return True, f"closed; {len(os.environ)} variables, all of them fixed"
    return False, "a descriptor stayed open"


def try_capabilities() -> Finding:
    """Nothing that root may do is left."""
    kernel.drop_capabilities()
    left = kernel.capabilities()
    return left == 0, "none left" if left == 0 else f"left: {left:#x}"


def try_dumpable() -> Finding:
    """The process's memory and descriptors are closed to others of its user."""
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    try:
        os.close(os.open("/proc/self/environ", os.O_RDONLY))
    except OSError:
        return True, "not dumpable"
    # Root may still read its own.
    return True, "not dumpable; user is root"


def try_landlock() -> Finding:
    """A folder outside the list cannot be opened."""
    abi = confinement.abi()
    if not abi:
        return False, "not in this kernel, or switched off"
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    confinement.read_only(abi, ["/usr/lib"])
    try:
        os.close(os.open("/", os.O_RDONLY))
    except PermissionError:
        return True, f"ABI {abi}" + ("" if abi >= 6 else "; signals are not scoped before ABI 6")
    return False, f"ABI {abi}, but a folder could be opened"


def try_rlimits() -> Finding:
    """An allocation over the limit fails."""
    limits = Limits(5, 5, 64 << 20, 1)
    confinement.lower_limits(limits, confinement.address_space(), files=32, processes=0)
    try:
        bytearray(256 << 20)
    except MemoryError:
        return True, "an allocation over the limit failed"
    return False, "memory over the limit could be had"


def try_seccomp() -> Finding:
    """A socket cannot be opened."""
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    confinement.Program(seccomp.strict()).install()
    try:
        socket.socket().close()
    except PermissionError:
        return True, f"{len(seccomp.names())} system calls allowed, {RULED} by their arguments"
    return False, "installed, but a socket could be opened"


TRIALS: dict[str, Callable[[], Finding]] = {
    "descriptors": try_descriptors,
    "capabilities": try_capabilities,
    "dumpable": try_dumpable,
    "landlock": try_landlock,
    "rlimits": try_rlimits,
    "seccomp": try_seccomp,
}


def self_test() -> None:
    """Try all, each in a process of its own: what is given up does not come back."""
    for name, attempt in TRIALS.items():
        pid = os.fork()
        if pid == 0:
            try:
                holds, detail = attempt()
            except Exception as e:
                holds, detail = False, f"{type(e).__name__}: {e}"
            os.write(1, json.dumps([name, holds, detail]).encode() + b"\n")
            os._exit(0)
        os.waitpid(pid, 0)
