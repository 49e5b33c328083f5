"""A pool of worker processes that grade pairs by numbers, with a time limit and a memory cap."""

import json
import os
import select
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from rstar_math.config.sections import GradingConfig
from rstar_math.errors import GradingError
from rstar_math.grading.rules import Grade, unknown
from rstar_math.types import Verdict

_START_S = 60.0
_REPLY_BYTES = 4096
_SCRIPT = Path(__file__).with_name("worker.py")
_KEPT_ENVIRONMENT = ("LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")
TIMED_OUT = unknown("The time limit of the pair passed.")
DIED = unknown("The grader process ended on this pair.")


class _ReplyTimeout(Exception):
    """No complete line arrived in time."""


class _WorkerFailed(Exception):
    """The process has ended or violates the protocol."""


@dataclass(slots=True)
class _Worker:
    """A worker process and its unread output."""

    process: subprocess.Popen[bytes]
    request_id: int = 0
    buffer: bytes = b""

    def send(self, message: dict[str, object]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message).encode("ascii") + b"\n")
            self.process.stdin.flush()
        except OSError as error:
            raise _WorkerFailed from error

    def receive(self, seconds: float) -> dict[str, object]:
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        fd = self.process.stdout.fileno()
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while b"\n" not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise _ReplyTimeout
            chunk = os.read(fd, _REPLY_BYTES)
            self.buffer += chunk
            if not chunk or len(self.buffer) > 4 * _REPLY_BYTES:
                raise _WorkerFailed
        line, _, self.buffer = self.buffer.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError as error:
            raise _WorkerFailed from error
        if not isinstance(message, dict):
            raise _WorkerFailed
        return message

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue


class Pool:
    """Up to `config.workers` worker processes, started when they are first needed.

    Safe from any thread, and in a forked copy of the process.
    """

    def __init__(self, config: GradingConfig) -> None:
        self.config = config
        self.size = config.workers or min(4, os.cpu_count() or 1)
        self.pair_count = 0
        """Number of pairs given to a process so far."""
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._idle: list[_Worker] = []
        self._slots = threading.BoundedSemaphore(self.size)
        self._lock = threading.Lock()
        self._closed = False

    def grade(self, pred: str, gold: str) -> Grade:
        """The grade by the numeric engine; UNKNOWN after the time limit.

        If the process fails, the pair is tried once more in another process. Raises `GradingError`
        if no process can be started.
        """
        if os.getpid() != self._pid:
            self._reset()
        with self._slots:
            self.pair_count += 1
            for _ in range(2):
                worker = self._acquire()
                try:
                    result = self._exchange(worker, pred, gold)
                except _ReplyTimeout:
                    worker.end()
                    return TIMED_OUT
                except _WorkerFailed:
                    worker.end()
                    continue
                except BaseException:
                    worker.end()
                    raise
                self._release(worker)
                return result
            return DIED

    def _exchange(self, worker: _Worker, pred: str, gold: str) -> Grade:
        worker.request_id += 1
        worker.send({"id": worker.request_id, "pred": pred, "gold": gold})
        reply = worker.receive(self.config.timeout_s)
        if reply.get("id") != worker.request_id:
            raise _WorkerFailed
        try:
            return Grade(Verdict(str(reply["verdict"])), str(reply["reason"]))
        except (KeyError, ValueError) as error:
            raise _WorkerFailed from error

    def _acquire(self) -> _Worker:
        while True:
            with self._lock:
                if self._closed:
                    raise GradingError("The grader is closed; open a new one.")
                worker = self._idle.pop() if self._idle else None
            if worker is None:
                return self._start()
            if worker.process.poll() is None:
                return worker
            worker.end()

    def _start(self) -> _Worker:
        settings = {
            "path": sys.path,
            "memory_mb": self.config.memory_mb,
            "alarm_s": self.config.timeout_s + 1.0,
        }
        environment = {k: v for k in _KEPT_ENVIRONMENT if (v := os.environ.get(k)) is not None}
        environment |= {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1"}
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_SCRIPT), json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise GradingError(
                f"Cannot start a grader process ({error}); check that {sys.executable!r} exists and"
                " is executable."
            ) from error
        worker = _Worker(process)
        try:
            worker.receive(_START_S)
        except (_WorkerFailed, _ReplyTimeout) as error:
            worker.end()
            raise GradingError(
                f"A grader process failed to start (exit status {process.returncode}); increase"
                f" grading.memory_mb (now {self.config.memory_mb}), or check the installation with"
                " `python -c 'import mpmath'`."
            ) from error
        except BaseException:
            worker.end()
            raise
        return worker

    def _release(self, worker: _Worker) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(worker)
                return
        worker.end()

    def close(self) -> None:
        """End the idle processes. Busy ones end after their pair. Later calls fail."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        if os.getpid() == self._pid:
            for worker in idle:
                worker.end()
