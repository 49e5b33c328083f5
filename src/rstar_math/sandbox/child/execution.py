"""Runs one snippet in a forked process and reports how it ended.

Trusted until the first line of the snippet runs, hostile from then on. `run.Run` is the
supervisor's view of this process.
"""

import builtins
import errno
import json
import os
import random
import re
import signal
import sys
import time
import types
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from . import kernel, scratch
from .confinement import Layers, close_all_but
from .protocol import MESSAGE_CHARS, NEEDS_SCRATCH, Limits

REPORT_FD = 3
"""The descriptor of the report in every child."""
SEED = 0
FILENAME = "<step>"
# Bound at import, before any hostile code can replace them in their modules.
_write, _exit, _dup2, _close, _dumps = os.write, os._exit, os.dup2, os.close, json.dumps
_clock = time.perf_counter
_compile, _str, _type = compile, str, type
_stdout, _stderr = sys.stdout, sys.stderr


def bind_streams() -> None:
    """Remember the zygote's streams, to flush them at the end even if a snippet replaces them."""
    global _stdout, _stderr
    _stdout, _stderr = sys.stdout, sys.stderr


Report = dict[str, Any]


def detach(report: int, keep: Sequence[int], zygote: int, layers: Layers) -> None:
    """Separate a child from the zygote: a new session, and only the descriptors it needs.

    Descriptors 0 to 2 are /dev/null already. `report` becomes `REPORT_FD`; `keep` stays open.
    """
    os.setsid()
    if kernel.LINUX:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)
        if os.getppid() != zygote:
            _exit(0)
    if layers.enabled("descriptors"):
        _dup2(report, REPORT_FD)
        close_all_but([REPORT_FD, *layers.descriptors, *keep])
    elif report != REPORT_FD:
        _dup2(report, REPORT_FD)
    random.seed(SEED)


def code_file(codes: Sequence[str]) -> int:
    """The descriptor of an anonymous file with the code of a run, at its start. Raises OSError."""
    data = json.dumps(list(codes)).encode("ascii")
    fd = os.memfd_create("code", os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def read_codes(fd: int) -> list[str]:
    """The code in such a file, which is closed."""
    data = b"".join(iter(lambda: os.read(fd, 1 << 20), b""))
    os.close(fd)
    codes: list[str] = json.loads(data)
    return codes


def _new_main_module() -> types.ModuleType:
    """A fresh `__main__` module, where pickle, dataclasses and typing look names up."""
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = builtins
    return module


SYMPY_IMPORT = "from sympy import *"
_LEADING_SYMPY_IMPORT = re.compile(
    rf"(?:[ \t]*(?:#[^\r\n]*)?\n)*({re.escape(SYMPY_IMPORT)})[ \t]*(?:#[^\r\n]*)?(?:\n|\Z)"
)
_sympy_main: types.ModuleType | None = None
"""A `__main__` module in which `from sympy import *` was executed."""


def prepare_sympy_main() -> None:
    """Execute `from sympy import *` once in the zygote, in a `__main__` that the children inherit.

    In a child the import adds a reference to each of 900 objects, nearly all on memory pages of
    their own. The kernel then copies these pages: 4 of the 20 ms of a short sympy snippet.
    """
    global _sympy_main
    module = _new_main_module()
    try:
        exec(SYMPY_IMPORT, module.__dict__)
    except ImportError:
        return
    _sympy_main = module


def new_namespace(codes: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The namespace in which to run the codes, and the codes.

    If the first one starts with the sympy import, the namespace has it already and the statement
    is replaced by `pass`.
    """
    codes = list(codes)
    module = _sympy_main
    match = _LEADING_SYMPY_IMPORT.match(codes[0]) if codes else None
    if module is not None and match is not None and _compiles(codes[0]):
        # The replacement is as long as the import, so lines and columns stay the same.
        start, end = match.span(1)
        codes[0] = codes[0][:start] + "pass".ljust(len(SYMPY_IMPORT)) + codes[0][end:]
    else:
        module = _new_main_module()
    sys.modules["__main__"] = module
    return module.__dict__, codes


def _compiles(code: str) -> bool:
    try:
        _compile(code, FILENAME, "exec", 0, True)
    except BaseException:
        return False
    return True


def run_program(
    codes: Sequence[str],
    outputs: tuple[int, int],
    limits: Limits,
    layers: Layers,
    *,
    writes: bool,
) -> NoReturn:
    """Confine this process, run a prefix and a step in it, report and exit.

    `outputs` are the descriptors for the step's stdout and stderr. `writes` gives it a scratch
    folder; without one, it ends as soon as it needs one.
    """
    layers.confine_child(limits, writes=writes)
    if not writes:
        end_when_it_writes(layers)
    *prefix, step = codes
    scope, (*prefix, step) = new_namespace([*prefix, step])
    prefix_s = replay_prefix(prefix, scope)
    report_and_exit(run_step(step, scope, outputs) | {"prefix_s": prefix_s})


def end_when_it_writes(layers: Layers) -> None:
    """End this process, asking for a scratch folder, when its code first wants to write a file."""
    if layers.scratch:
        scratch.ask_when_needed(layers.scratch, ask_for_scratch)


def ask_for_scratch() -> NoReturn:
    """End this process and ask for a new run of its code, alone and with a scratch folder."""
    report_and_exit({"status": NEEDS_SCRATCH})


def replay_prefix(codes: Sequence[str], scope: dict[str, Any]) -> float:
    """Run the code of a prefix and return the seconds it took.

    Its output is discarded. Its exceptions are ignored: each was reported when its step first ran.
    """
    start = _clock()
    for code in codes:
        try:
            exec(_compile(code, FILENAME, "exec", 0, True), scope)
        except BaseException:
            continue
    _flush()
    return _clock() - start


def run_step(step: str, scope: dict[str, Any], outputs: tuple[int, int]) -> Report:
    """Run the step with its stdout and stderr sent to `outputs`, and return its report."""
    stdout, stderr = outputs
    _reset_signals()
    _dup2(stdout, 1)
    _dup2(stderr, 2)
    _close(stdout)
    _close(stderr)
    report = _run_guarded(lambda: _compile(step, FILENAME, "exec", 0, True))
    program = report.pop("value", None)
    if report.get("status") == "memory":
        # This comes from the parser's own limit on nesting, not from the memory limit.
        report = {"status": "error", "type": "MemoryError", "message": "nested too deeply to parse"}
    if program is not None:
        report = _run_guarded(lambda: exec(program, scope))
        report.pop("value", None)
    _flush()
    return report


_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_HANDLED = (signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGUSR1, signal.SIGUSR2)
_set_timer, _set_handler, _DEFAULT = signal.setitimer, signal.signal, signal.SIG_DFL


def _reset_signals() -> None:
    """Stop the timers and remove the signal handlers that earlier steps left."""
    for timer in _TIMERS:
        try:
            _set_timer(timer, 0)
        except BaseException:  # a handler that runs here raises what it likes
            continue
    for number in _HANDLED:
        _set_handler(number, _DEFAULT)


def _run_guarded(function: Callable[[], Any]) -> Report:
    """The report of one call: its value, or how it failed."""
    try:
        return {"status": "ok", "value": function()}
    except SystemExit:
        return {"status": "ok"}
    except MemoryError:
        return {"status": "memory"}
    except BaseException as e:
        if isinstance(e, OSError) and e.errno == errno.ENOMEM:
            return {"status": "memory"}
        return {"status": "error", "type": _type(e).__name__[:100], "message": _error_message(e)}


def _error_message(e: BaseException) -> str:
    try:
        text = _str(e)
        if isinstance(e, SyntaxError) and e.msg:
            text = f"{e.msg} (line {e.lineno})" if e.lineno else _str(e.msg)
        return " ".join(text[: 4 * MESSAGE_CHARS].split())[:MESSAGE_CHARS]
    except BaseException:
        return ""


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr, _stdout, _stderr):
        try:
            stream.flush()
        except BaseException:
            continue


def report_and_exit(report: Report) -> NoReturn:
    """Write the report and exit without running finalisers.

    Never returns, so hostile code cannot get back into the zygote's loop.
    """
    try:
        try:
            _write(REPORT_FD, _dumps(report).encode("ascii"))
        except MemoryError:
            _write(REPORT_FD, b'{"status":"memory"}')
    finally:
        while True:
            _exit(0)
