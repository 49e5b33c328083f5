"""A running snippet as the supervisor sees it: its pipes, clocks, end and reply. Trusted.

The code that runs inside the forked process is in `execution`.
"""

import contextlib
import json
import os
import signal
import time
from dataclasses import dataclass, field
from typing import Any

from .protocol import MESSAGE_CHARS, NEEDS_SCRATCH, Limits

MAX_REPORT_BYTES = 8192
CHUNK_BYTES = 1 << 16
SLOW_S = 0.15
"""After this time a run counts as slow, and its zygote may start another one beside it."""
Reply = dict[str, Any]


@dataclass(slots=True, eq=False)
class Run:
    """A process that runs a snippet, or the prefix of a fan-out. Times are of `time.monotonic`."""

    id: int
    limits: Limits
    writes: bool = False
    """Whether it has a scratch folder."""
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
    """The reply to the parent. Facts come from the kernel; the report only adds details.

    A program without a scratch folder may ask for one, and then runs once more.
    """
    report = parse_report(bytes(run.report))
    if report.get("status") == NEEDS_SCRATCH and not run.writes and run.kill_reason is None:
        return {"id": run.id, NEEDS_SCRATCH: True}
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


def parse_report(data: bytes) -> Reply:
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
