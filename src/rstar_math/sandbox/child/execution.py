"""Runs one snippet in a forked process, and classifies how the process ended.

`Run` is the supervisor's view: pipes, clocks and the reply. The functions below `REPORT_FD` run in
the forked child.
"""

import builtins
import contextlib
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
from dataclasses import dataclass, field
from typing import Any, NoReturn

from . import kernel
from .confinement import Layers, close_all_but
from .protocol import Limits

MAX_REPORT_BYTES = 8192
CHUNK_BYTES = 1 << 16
SLOW_S = 0.15
"""After this time a run counts as slow, and its zygote may start another one beside it."""
MESSAGE_CHARS = 300
Reply = dict[str, Any]


@dataclass(slots=True, eq=False)
class Run:
    """A process that runs a snippet, or the prefix of a fan-out. Times are of `time.monotonic`."""

    id: int
    limits: Limits
    stdout_fd: int = -1
    stderr_fd: int = -1
    report_fd: int = -1
    pid: int = 0
    """0 until the process is started and identified."""
    group: int = 0
    """If not 0, the process is signalled only while it is in this process group. Set for a process
    that may not be a child, whose pid could belong to another process after it ends."""
    started_at: float = 0.0
    wall_deadline: float = 0.0
    cpu_s: float = 0.0
    """Processor seconds that this process may use, in a fan-out less those of the prefix."""
    next_cpu_check: float = 0.0
    """The earliest time at which the process can have used them up."""
    prefix_cpu_s: float = 0.0
    """Processor seconds that the prefix used in another process."""
    slow_at: float = 0.0
    slow: bool = False
    stdout: bytearray = field(default_factory=bytearray)
    stderr_bytes: int = 0
    """Bytes written to stderr. They are counted and discarded."""
    report: bytearray = field(default_factory=bytearray)
    """The part of the child's report received so far. Untrusted."""
    kill_reason: str | None = None
    """Why the supervisor killed it: "wall", "cpu", "output", "cancel" or "gone"."""

    def start_clocks(self, pid: int, *, wall_s: float, cpu_s: float) -> None:
        """Start the time limits of a process."""
        self.pid = pid
        self.started_at = time.monotonic()
        self.wall_deadline = self.started_at + wall_s
        self.cpu_s = cpu_s
        self.next_cpu_check = self.started_at + cpu_s
        self.slow_at = self.started_at + SLOW_S

    def cpu_used(self) -> float:
        """Processor seconds used so far, from the kernel. Valid until the process is reaped."""
        try:
            return time.clock_gettime((~self.pid << 3) | 2)
        except OSError:
            return 0.0

    def kill(self, reason: str) -> None:
        """Kill the process. Only the first reason is kept."""
        if self.kill_reason is None:
            self.kill_reason = reason
        if self.pid:
            with contextlib.suppress(OSError):
                if not self.group or os.getpgid(self.pid) == self.group:
                    os.kill(self.pid, signal.SIGKILL)

    def read_stdout(self) -> int:
        """The number of bytes read from stdout: 0 at its end, -1 if none are available now.

        Kills the run at the output limit.
        """
        data = _read(self.stdout_fd)
        room = self.limits.output_bytes - len(self.stdout)
        if data:
            self.stdout += data[:room]
            if len(data) > room:
                self.kill("output")
        return -1 if data is None else len(data)

    def read_stderr(self) -> int:
        """Like `read_stdout`, for stderr. The bytes are only counted."""
        data = _read(self.stderr_fd)
        if data:
            self.stderr_bytes += len(data)
            if self.stderr_bytes > self.limits.output_bytes:
                self.kill("output")
        return -1 if data is None else len(data)

    def read_report(self) -> int:
        """Like `read_stdout`, for the report. A report that is too long is ignored later."""
        data = _read(self.report_fd)
        if data:
            self.report += data[: MAX_REPORT_BYTES + 1 - len(self.report)]
        return -1 if data is None else len(data)

    def drain(self) -> None:
        """Read what an ended process left in its pipes. Never blocks."""
        for read in (self.read_stdout, self.read_stderr, self.read_report):
            while read() > 0:
                continue

    def close(self) -> None:
        """Close the pipes."""
        for fd in (self.stdout_fd, self.stderr_fd, self.report_fd):
            if fd >= 0:
                os.close(fd)
        self.stdout_fd = self.stderr_fd = self.report_fd = -1

    def next_deadline(self) -> float:
        """The time at which the supervisor must check this run again."""
        limit = min(self.wall_deadline, self.next_cpu_check)
        return limit if self.slow else min(limit, self.slow_at)

    def enforce_times(self, now: float) -> None:
        """Kill the run if it is over one of its time limits."""
        if now >= self.wall_deadline:
            self.kill("wall")
        if now >= self.next_cpu_check:
            left = self.cpu_s - self.cpu_used()
            if left <= 0:
                self.kill("cpu")
            self.next_cpu_check = now + max(left, 0.001)


def _read(fd: int) -> bytes | None:
    """The available bytes: b"" at the end of the pipe, None if there are none now."""
    if fd < 0:
        return b""
    try:
        return os.read(fd, CHUNK_BYTES)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def build_reply(run: Run, wait_status: int, cpu_s: float) -> Reply:
    """The reply to the parent. Facts come from the kernel; the report only adds details."""
    report = _parse_report(bytes(run.report))
    status, error_type, message = _classify(run, wait_status, cpu_s, report)
    prefix_s = report.get("prefix_s")
    return {
        "id": run.id,
        "status": status,
        "type": error_type,
        "message": message,
        "wall_s": time.monotonic() - run.started_at,
        "cpu_s": cpu_s + run.prefix_cpu_s,
        "prefix_s": prefix_s if isinstance(prefix_s, float) else None,
    }


def _classify(
    run: Run, wait_status: int, cpu_s: float, report: Reply
) -> tuple[str, str | None, str | None]:
    """Status, error type and message of a run that has ended."""
    limits = run.limits
    if run.kill_reason == "output" or run.stderr_bytes > limits.output_bytes:
        return "output_cap", None, f"printed more than {limits.output_bytes} bytes"
    number = os.WTERMSIG(wait_status) if os.WIFSIGNALED(wait_status) else 0
    over_cpu = number == signal.SIGXCPU or (number == signal.SIGKILL and cpu_s > run.cpu_s)
    if run.kill_reason in ("wall", "cpu") or over_cpu:
        return "timeout", None, _timeout_message(run)
    if number:
        return "killed", None, f"killed by {_signal_name(number)}"
    status = report.get("status")
    if status == "ok":
        return "ok", None, None
    if status == "memory":
        megabytes = limits.memory_bytes >> 20
        return "memory", "MemoryError", f"needed more than {megabytes} MiB of memory"
    if status == "error":
        error_type = _one_line(report.get("type")) or "Exception"
        return "error", error_type, _one_line(report.get("message"))
    code = os.WEXITSTATUS(wait_status)
    return "exited", None, f"exited with code {code} before the end of the code"


def _timeout_message(run: Run) -> str:
    limits = run.limits
    if limits.cpu_s < limits.wall_s and run.kill_reason != "wall":
        return f"used more than {limits.cpu_s:g} s of processor time"
    return f"took longer than {limits.wall_s:g} s"


def _parse_report(data: bytes) -> Reply:
    """The report as a dict; empty if it is malformed."""
    if len(data) > MAX_REPORT_BYTES:
        return {}
    try:
        report = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return report if isinstance(report, dict) else {}


def _one_line(value: object) -> str | None:
    return " ".join(value.split())[:MESSAGE_CHARS] if isinstance(value, str) else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def has_ended(pid: int) -> bool:
    """Whether a child has ended. Does not reap it."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def kill_group(group: int) -> None:
    """Kill the remaining processes of a process group."""
    with contextlib.suppress(OSError):
        os.killpg(group, signal.SIGKILL)


def reap_group(group: int) -> None:
    """Reap the children in a killed process group."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-group, 0)


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
        close_all_but([REPORT_FD, *keep])
    elif report != REPORT_FD:
        _dup2(report, REPORT_FD)
    random.seed(SEED)


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
    prefix: Sequence[str], step: str, outputs: tuple[int, int], limits: Limits, layers: Layers
) -> NoReturn:
    """Confine this process, run a prefix and a step in it, report and exit.

    `outputs` are the descriptors for the step's stdout and stderr.
    """
    layers.confine_child(limits)
    scope, (*prefix, step) = new_namespace([*prefix, step])
    prefix_s = replay_prefix(prefix, scope)
    report_and_exit(run_step(step, scope, outputs) | {"prefix_s": prefix_s})


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
