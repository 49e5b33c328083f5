"""Runs a zygote: a confined interpreter with the mathematics libraries loaded, serving requests."""

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
import threading
from collections.abc import Callable, Iterable
from typing import Any

from . import confinement, event_loop, execution, kernel, protocol, scratch, seccomp
from .confinement import ConfinementError, Layers
from .protocol import Limits
from .supervisor import Supervisor

MIN_CONTROL_FD = 10
"""Lowest descriptor for the socket to the parent. Lower ones are for the children."""
_PRELOAD = """
math cmath decimal fractions statistics random itertools functools operator collections
collections.abc heapq bisect string re json datetime time calendar copy dataclasses enum typing
types abc contextlib array struct textwrap pprint numbers hashlib zlib base64 binascii io inspect
traceback warnings platform locale unicodedata secrets queue graphlib concurrent.futures
subprocess multiprocessing threading asyncio mpmath sympy sympy.abc sympy.stats sympy.combinatorics
sympy.geometry sympy.ntheory sympy.functions sympy.parsing.sympy_parser numpy numpy.random
numpy.linalg numpy.fft numpy.polynomial
"""
_SCIPY = """
scipy scipy.optimize scipy.integrate scipy.stats scipy.linalg scipy.special scipy.interpolate
scipy.sparse scipy.spatial
"""
_MATPLOTLIB = "matplotlib matplotlib.pyplot matplotlib.backends.backend_agg"
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
    """Serve the parent at the other end of socket `fd` until it closes the socket."""
    if kernel.LINUX:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGTERM)
    control = _move_control(fd)
    try:
        setup = _receive_setup(control)
        layers = _prepare(setup)
        supervisor = Supervisor(control, layers)
    except Exception as e:
        with contextlib.suppress(OSError):
            control.sendall(protocol.encode({"error": f"{e}" or type(e).__name__}))
        os._exit(1)
    supervisor.send({"ready": os.getpid(), "landlock": layers.abi, "base": layers.base_memory})
    supervisor.serve()
    os._exit(0)


def _move_control(fd: int) -> socket.socket:
    """The control socket on a high descriptor.

    Descriptor 3 becomes /dev/null, so that nothing else takes it: children put their report there.
    """
    control_fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, MIN_CONTROL_FD)
    os.close(fd)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    if null != execution.REPORT_FD:
        os.dup2(null, execution.REPORT_FD, inheritable=False)
        os.close(null)
    return socket.socket(fileno=control_fd)


def _receive_setup(control: socket.socket) -> dict[str, Any]:
    """The header of the first frame. Exits if the parent is gone."""
    decoder = protocol.Decoder()
    while True:
        data = control.recv(1 << 16)
        if not data:
            os._exit(0)
        for setup, _ in decoder.feed(data):
            return setup


def _prepare(setup: dict[str, Any]) -> Layers:
    """Load the libraries and confine this process. Raises `ConfinementError`."""
    os.chdir("/")
    layers = Layers(setup["mode"], setup["skip"], setup["readable"])
    layers.prepare()
    # Needed to start this interpreter; snippets must not see them.
    for name in ("LD_LIBRARY_PATH", "RSTAR_FIXED_LAYOUT"):
        os.environ.pop(name, None)
    sys.path[:] = [p for p in sys.path if p] + list(setup["libraries"])
    sys.argv[:] = [""]
    sys.orig_argv[:] = [""]
    sys.set_int_max_str_digits(0)
    site.setquit()
    site.sethelper()
    _preload_and_warm_up(setup["preload"], plots=layers.scratch is not None)
    event_loop.replace()
    _seed_generators()
    if "prepared" not in setup["skip"]:
        execution.prepare_sympy_main()
    _open_streams()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = 8192 if hard == resource.RLIM_INFINITY else min(hard, 8192)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if layers.enabled("huge_pages"):
        kernel.use_huge_pages()
    layers.confine_zygote()
    if not setup["skip"]:
        verify_confinement(layers)
    return layers


def _open_streams() -> None:
    """Reopen the standard streams with line buffering and lenient encoding.

    Line buffering keeps what a snippet prints before a time-out.
    """
    sys.stdout = _stream(1)
    sys.stderr = _stream(2)
    sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    execution.bind_streams()


def _stream(fd: int) -> io.TextIOWrapper:
    raw = io.FileIO(fd, "w", closefd=False)
    buffer = io.BufferedWriter(raw)
    return io.TextIOWrapper(buffer, "utf-8", "backslashreplace", "\n", line_buffering=True)


def _preload_and_warm_up(libraries: str, *, plots: bool) -> None:
    """Import libraries and call them once: the first `solve` in a process takes at least 100 ms.

    matplotlib is imported only if it can write its list of fonts. It draws nothing here: its fonts
    would keep descriptors, which a child closes.
    """
    _preload((_PRELOAD + (_SCIPY if libraries else "")).split())
    _run_lines(WARM_UP)
    _run_lines(WARM_UP_NUMPY)
    if libraries == "matplotlib" and plots:
        _preload(_MATPLOTLIB.split())
        _forget_unreadable_fonts()


def _forget_unreadable_fonts() -> None:
    """Leave matplotlib only the fonts that it brings along: programs cannot read others."""
    fonts = sys.modules.get("matplotlib.font_manager")
    if fonts is None:
        return
    own = f"{sys.modules['matplotlib'].get_data_path()}{os.sep}"
    for name in ("ttflist", "afmlist"):
        found = getattr(fonts.fontManager, name)
        found[:] = [font for font in found if font.fname.startswith(own)]
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(5)  # A fork copies only one thread.


def _preload(names: Iterable[str]) -> None:
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _run_lines(lines: Iterable[str]) -> None:
    scope: dict[str, object] = {}
    for line in lines:
        with contextlib.suppress(Exception):
            exec(line, scope)


def _seed_generators() -> None:
    """Seed the generators whose state the children inherit. `random` is seeded in each child."""
    for name, function in (("numpy.random", "seed"), ("sympy.core.random", "seed")):
        module = sys.modules.get(name)
        if module is not None:
            getattr(module, function)(execution.SEED)


def _write_library() -> None:
    os.close(os.open(str(os.__file__), os.O_WRONLY))


_FORBIDDEN: tuple[tuple[str, str, Callable[[], object]], ...] = (
    ("read a file", "landlock", lambda: os.open("/etc/passwd", os.O_RDONLY)),
    ("open a socket", "seccomp", socket.socket),
    ("start a process", "seccomp", os.fork),
    ("change a library", "seccomp", _write_library),
    ("mount a file system", "seccomp", lambda: kernel.mount("tmpfs", "/", 0)),
)
"""Actions that must fail in a confined child: name, layer that stops it, function."""
_CANNOT_WRITE = 1 << len(_FORBIDDEN)


def verify_confinement(layers: Layers) -> None:
    """Try forbidden actions in throw-away children, with and without a scratch folder.

    Raises `ConfinementError` naming those that succeed. If the folder does not work, programs get
    none.
    """
    leaks = _try_in_child(layers, writes=False)
    if layers.scratch and not leaks:
        leaks = _try_in_child(layers, writes=True)
        if leaks == _CANNOT_WRITE:
            layers.scratch, leaks = None, 0
    if leaks:
        names = [
            name for bit, (name, *_) in enumerate(_FORBIDDEN) if leaks > 0 and leaks & 1 << bit
        ]
        found = ", ".join(names) or f"not be confined ({leaks})"
        raise ConfinementError(f"a trial run could {found}")


def _try_in_child(layers: Layers, *, writes: bool) -> int:
    """The forbidden actions that succeed in a child, as a bit set."""
    pid = os.fork()
    if pid == 0:
        leaks = 128
        try:
            layers.confine_child(Limits(10, 10, 256 << 20, 1024, 1 << 20, 16), writes=writes)
            leaks = _leaks(layers, writes=writes)
        finally:
            os._exit(leaks)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _leaks(layers: Layers, *, writes: bool) -> int:
    leaks = 0
    for bit, (_, layer, action) in enumerate(_FORBIDDEN):
        if layers.enabled(layer):
            try:
                action()
                leaks |= 1 << bit
            except OSError:
                continue
    if writes:
        try:
            with open("trial", "wb") as file:
                file.write(b"x")
        except OSError:
            leaks |= _CANNOT_WRITE
    return leaks


Finding = tuple[bool, str]
"""Whether a layer holds, and a one-line detail."""
CALLS_WITH_RULES = 7
"""Number of system calls that the filter allows depending on their arguments."""


def try_descriptors() -> Finding:
    """Closes inherited descriptors."""
    extra = os.dup(0)
    confinement.close_all_but([1])
    try:
        os.fstat(extra)
    except OSError:
        return True, f"closed; the environment is {len(os.environ)} fixed variables"
    return False, "a descriptor stayed open"


def try_capabilities() -> Finding:
    """Drops all capabilities."""
    kernel.drop_capabilities()
    left = kernel.capabilities()
    return left == 0, "all dropped" if left == 0 else f"some remain: {left:#x}"


def try_dumpable() -> Finding:
    """Closes the process's memory and descriptors to other processes of its user."""
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    try:
        os.close(os.open("/proc/self/environ", os.O_RDONLY))
    except OSError:
        return True, "not dumpable"
    # Root can still read its own files in /proc.
    return True, "not dumpable; the user is root"


def try_landlock() -> Finding:
    """Refuses to open a folder outside the list."""
    abi = confinement.landlock_abi()
    if not abi:
        return False, "this kernel does not have it or has it switched off"
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    confinement.enter_domain(confinement.create_ruleset(abi, ["/usr/lib"], scoped=True))
    try:
        os.close(os.open("/", os.O_RDONLY))
    except PermissionError:
        return True, f"ABI {abi}" + ("" if abi >= 6 else "; signals need ABI 6")
    return False, f"ABI {abi}, but a folder could be opened"


def try_rlimits() -> Finding:
    """Makes an allocation above the limit fail."""
    limits = Limits(5, 5, 64 << 20, 1, 1 << 20, 16)
    confinement.lower_limits(limits, confinement.address_space(), files=32, processes=0)
    try:
        bytearray(256 << 20)
    except MemoryError:
        return True, "an allocation above the limit failed"
    return False, "an allocation above the limit succeeded"


def try_seccomp() -> Finding:
    """Refuses to open a socket."""
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    confinement.SeccompProgram(seccomp.strict()).install()
    try:
        socket.socket().close()
    except PermissionError:
        return (
            True,
            f"{len(seccomp.allowed_calls())} system calls allowed,"
            f" {CALLS_WITH_RULES} of them depending on arguments",
        )
    return False, "installed, but a socket could be opened"


def try_scratch() -> Finding:
    """Gives a process a folder of its own."""
    if not confinement.landlock_abi():
        return False, "programs cannot write files: the folder needs Landlock"
    point = scratch.prepare(["/usr", sys.prefix, sys.base_prefix])
    if point is None:
        return False, "programs cannot write files: this system allows no user namespaces"
    return True, f"each program has a private, writable {point} in memory"


TRIALS: dict[str, Callable[[], Finding]] = {
    "descriptors": try_descriptors,
    "capabilities": try_capabilities,
    "dumpable": try_dumpable,
    "landlock": try_landlock,
    "rlimits": try_rlimits,
    "seccomp": try_seccomp,
    "scratch": try_scratch,
}


def self_test() -> None:
    """Print a JSON line per layer: name, whether it holds, detail.

    Each layer is tried in its own process, because it cannot be undone.
    """
    for name, trial in TRIALS.items():
        pid = os.fork()
        if pid == 0:
            try:
                holds, detail = trial()
            except Exception as e:
                holds, detail = False, f"{type(e).__name__}: {e}"
            os.write(1, json.dumps([name, holds, detail]).encode() + b"\n")
            os._exit(0)
        os.waitpid(pid, 0)
