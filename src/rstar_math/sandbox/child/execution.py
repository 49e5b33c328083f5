"""One run in a forked process: its pipes, clocks and verdict in the supervisor, and the code that
the fork runs."""

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

REPORT_BYTES = 8192
CHUNK = 1 << 16
SLOW_S = 0.15
"""Past this a run counts as slow, and the next one is let in beside it."""
MESSAGE_CHARS = 300
Reply = dict[str, Any]


@dataclass(slots=True, eq=False)
class Run:
    """A process that runs a snippet, or in a fan-out the prefix. Times are of `time.monotonic`."""

    id: int
    limits: Limits
    out: int = -1
    err: int = -1
    report: int = -1
    pid: int = 0
    """0 until it has been started and is known."""
    group: int = 0
    """The process group that it must still be in to be signalled, where it is not sure to be an
    unreaped child; else 0."""
    start: float = 0.0
    wall_end: float = 0.0
    cpu_s: float = 0.0
    """Processor seconds that this process may use, its prefix's in a fan-out taken off."""
    cpu_check: float = 0.0
    """When it can first have used them up."""
    spent_s: float = 0.0
    """Processor seconds that the prefix took in another process."""
    slow_at: float = 0.0
    slow: bool = False
    stdout: bytearray = field(default_factory=bytearray)
    other_bytes: int = 0
    """Bytes on stderr, which are counted and thrown away."""
    said: bytearray = field(default_factory=bytearray)
    """The report, as far as it has come; advisory."""
    sentence: str | None = None
    """Why the judge ended it: "wall", "cpu", "output" or "cancel"."""

    def begin(self, pid: int, *, wall_s: float, cpu_s: float) -> None:
        """Start the clocks."""
        self.pid = pid
        self.start = time.monotonic()
        self.wall_end = self.start + wall_s
        self.cpu_s = cpu_s
        self.cpu_check = self.start + cpu_s
        self.slow_at = self.start + SLOW_S

    def cpu_used(self) -> float:
        """Processor seconds of the process so far, by the kernel; it must not have been reaped."""
        try:
            return time.clock_gettime((~self.pid << 3) | 2)
        except OSError:
            return 0.0

    def end(self, sentence: str) -> None:
        """Kill it; the first reason counts."""
        if self.sentence is None:
            self.sentence = sentence
        if self.pid:
            with contextlib.suppress(OSError):
                if not self.group or os.getpgid(self.pid) == self.group:
                    os.kill(self.pid, signal.SIGKILL)

    def read_output(self) -> int:
        """Take in what is there: bytes, 0 at the end of the pipe, -1 if there is nothing now. Ends
        the run at the output limit."""
        data = _read(self.out)
        room = self.limits.output - len(self.stdout)
        if data:
            self.stdout += data[:room]
            self._count(len(data) > room)
        return -1 if data is None else len(data)

    def read_errors(self) -> int:
        """The same for stderr, which is counted only."""
        data = _read(self.err)
        if data:
            self.other_bytes += len(data)
            self._count(self.other_bytes > self.limits.output)
        return -1 if data is None else len(data)

    def read_report(self) -> int:
        """The same for the report; what is too long is no report."""
        data = _read(self.report)
        if data:
            self.said += data[: REPORT_BYTES + 1 - len(self.said)]
        return -1 if data is None else len(data)

    def _count(self, too_much: bool) -> None:
        if too_much:
            self.end("output")

    def drain(self) -> None:
        """Take in what an ended process left in its pipes; never waits."""
        for read in (self.read_output, self.read_errors, self.read_report):
            while read() > 0:
                continue

    def close(self) -> None:
        """Close the pipes."""
        for fd in (self.out, self.err, self.report):
            if fd >= 0:
                os.close(fd)
        self.out = self.err = self.report = -1

    def next_deadline(self) -> float:
        """When the judge must look at this run again."""
        first = min(self.wall_end, self.cpu_check)
        return first if self.slow else min(first, self.slow_at)

    def watch(self, now: float) -> None:
        """End the run if it is over one of its times."""
        if now >= self.wall_end:
            self.end("wall")
        if now >= self.cpu_check:
            left = self.cpu_s - self.cpu_used()
            if left <= 0:
                self.end("cpu")
            self.cpu_check = now + max(left, 0.001)


def _read(fd: int) -> bytes | None:
    """Bytes; b"" at the end; None where there is nothing now."""
    if fd < 0:
        return b""
    try:
        return os.read(fd, CHUNK)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def reply(run: Run, wait_status: int, cpu_s: float) -> Reply:
    """What to tell the parent. Facts come from the kernel; the report only fills in the rest."""
    report = _parse(bytes(run.said))
    status, kind, message = _verdict(run, wait_status, cpu_s, report)
    prefix_s = report.get("prefix_s")
    return {
        "id": run.id,
        "status": status,
        "type": kind,
        "message": message,
        "wall_s": time.monotonic() - run.start,
        "cpu_s": cpu_s + run.spent_s,
        "prefix_s": prefix_s if isinstance(prefix_s, float) else None,
    }


def _verdict(
    run: Run, wait_status: int, cpu_s: float, report: Reply
) -> tuple[str, str | None, str | None]:
    limits = run.limits
    over = run.sentence == "output" or run.other_bytes > limits.output
    if over:
        return "output_cap", None, f"printed more than {limits.output} bytes"
    number = os.WTERMSIG(wait_status) if os.WIFSIGNALED(wait_status) else 0
    over_cpu = number == signal.SIGXCPU or (number == signal.SIGKILL and cpu_s > run.cpu_s)
    if run.sentence in ("wall", "cpu") or over_cpu:
        return "timeout", None, _which_time(run)
    if number:
        return "killed", None, f"ended by {_signal_name(number)}"
    status = report.get("status")
    if status == "ok":
        return "ok", None, None
    if status == "memory":
        megabytes = limits.memory >> 20
        return "memory", "MemoryError", f"needed more than {megabytes} MiB of memory"
    if status == "error":
        return "error", _line(report.get("type")) or "Exception", _line(report.get("message"))
    code = os.WEXITSTATUS(wait_status)
    return "exited", None, f"ended itself with exit code {code} before its end"


def _which_time(run: Run) -> str:
    limits = run.limits
    if limits.cpu_s < limits.wall_s and run.sentence != "wall":
        return f"used more than {limits.cpu_s:g} s of processor time"
    return f"took longer than {limits.wall_s:g} s"


def _parse(said: bytes) -> Reply:
    if len(said) > REPORT_BYTES:
        return {}
    try:
        report = json.loads(said)
    except (ValueError, RecursionError):
        return {}
    return report if isinstance(report, dict) else {}


def _line(value: object) -> str | None:
    return " ".join(value.split())[:MESSAGE_CHARS] if isinstance(value, str) else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def has_ended(pid: int) -> bool:
    """Whether a child has ended; it stays to be reaped."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def kill_group(group: int) -> None:
    """Kill what is left of a process group."""
    with contextlib.suppress(OSError):
        os.killpg(group, signal.SIGKILL)


def reap_group(group: int) -> None:
    """Reap a killed process group."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-group, 0)


REPORT = 3
"""The report's descriptor in every child."""
SEED = 0
FILENAME = "<step>"
_write, _exit, _dup2, _close, _dumps = os.write, os._exit, os.dup2, os.close, json.dumps
_clock = time.perf_counter
_compile, _str, _type = compile, str, type
_out, _err = sys.stdout, sys.stderr


def bind_streams() -> None:
    """Take the zygote's streams as those to flush at the end, whatever a snippet puts in place."""
    global _out, _err
    _out, _err = sys.stdout, sys.stderr


Report = dict[str, Any]


def detach(report: int, keep: Sequence[int], zygote: int, layers: Layers) -> None:
    """Leave the zygote behind: own session, no descriptors but three nulls and those to keep."""
    os.setsid()
    if kernel.LINUX:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)
        if os.getppid() != zygote:
            _exit(0)
    if layers.on("descriptors"):
        _dup2(report, REPORT)
        close_all_but([REPORT, *keep])
    elif report != REPORT:
        _dup2(report, REPORT)
    random.seed(SEED)


def _main() -> types.ModuleType:
    """A fresh `__main__`, which is where pickle, dataclasses and typing look names up."""
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = builtins
    return module


STAR = "from sympy import *"
_STAR_FIRST = re.compile(
    rf"(?:[ \t]*(?:#[^\r\n]*)?\n)*({re.escape(STAR)})[ \t]*(?:#[^\r\n]*)?(?:\n|\Z)"
)
_starred: types.ModuleType | None = None


def prepare() -> None:
    """Make, once in the zygote, a `__main__` that has done `from sympy import *`.

    Doing it in a child counts a reference to each of 900 objects, nearly all on pages of their
    own, which the kernel then copies: 4 of the 20 ms of a short sympy snippet.
    """
    global _starred
    module = _main()
    try:
        exec(STAR, module.__dict__)
    except ImportError:
        return
    _starred = module


def begin(codes: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The namespace for these codes and what is left of them to run in it."""
    left = list(codes)
    module, first = _starred, _STAR_FIRST.match(codes[0]) if codes else None
    if module is not None and first is not None and _parses(codes[0]):
        # A statement as long: lines and columns stay what they were.
        left[0] = codes[0][: first.start(1)] + "pass".ljust(len(STAR)) + codes[0][first.end(1) :]
    else:
        module = _main()
    sys.modules["__main__"] = module
    return module.__dict__, left


def _parses(code: str) -> bool:
    try:
        _compile(code, FILENAME, "exec", 0, True)
    except BaseException:
        return False
    return True


def run(
    codes: Sequence[str], step: str, pipes: tuple[int, int], limits: Limits, layers: Layers
) -> NoReturn:
    """Run a prefix and a step in a process of their own, which ends here."""
    layers.confine_child(limits)
    scope, (*codes, step) = begin([*codes, step])
    prefix_s = replay(codes, scope)
    finish(run_step(step, scope, pipes) | {"prefix_s": prefix_s})


def replay(codes: Sequence[str], scope: dict[str, Any]) -> float:
    """Run a prefix, whose output nobody reads and whose exceptions were dealt with when they first
    came; the seconds it took."""
    start = _clock()
    for code in codes:
        try:
            exec(_compile(code, FILENAME, "exec", 0, True), scope)
        except BaseException:
            continue
    _flush()
    return _clock() - start


def run_step(step: str, scope: dict[str, Any], pipes: tuple[int, int]) -> Report:
    """Run the step with its output going to the pipes; what to report of it."""
    out, err = pipes
    _dup2(out, 1)
    _dup2(err, 2)
    _close(out)
    _close(err)
    report = _attempt(lambda: _compile(step, FILENAME, "exec", 0, True))
    program = report.pop("value", None)
    if report.get("status") == "memory":
        # The parser's own limit on nesting, not the memory limit.
        report = {"status": "error", "type": "MemoryError", "message": "nested too deeply to parse"}
    if program is not None:
        report = _attempt(lambda: exec(program, scope))
        report.pop("value", None)
    _flush()
    return report


def _attempt(act: Callable[[], Any]) -> Report:
    try:
        return {"status": "ok", "value": act()}
    except SystemExit:
        return {"status": "ok"}
    except MemoryError:
        return {"status": "memory"}
    except BaseException as e:
        if isinstance(e, OSError) and e.errno == errno.ENOMEM:
            return {"status": "memory"}
        return {"status": "error", "type": _type(e).__name__[:100], "message": _sentence(e)}


def _sentence(e: BaseException) -> str:
    try:
        text = _str(e)
        if isinstance(e, SyntaxError) and e.msg:
            text = f"{e.msg} (line {e.lineno})" if e.lineno else _str(e.msg)
        return " ".join(text[: 4 * MESSAGE_CHARS].split())[:MESSAGE_CHARS]
    except BaseException:
        return ""


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr, _out, _err):
        try:
            stream.flush()
        except BaseException:
            continue


def finish(report: Report) -> NoReturn:
    """Report and end, without finalisers; never returns into the zygote's loop."""
    try:
        try:
            _write(REPORT, _dumps(report).encode("ascii"))
        except MemoryError:
            _write(REPORT, b'{"status":"memory"}')
    finally:
        while True:
            _exit(0)
