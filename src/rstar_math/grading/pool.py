"""A pool of worker processes that can be hung, killed or starved without the caller noticing.

Blocking by design, and safe from any thread; `grader.py` puts it behind threads for asyncio. Each
pair is one JSON line to a worker and one line back, of bounded length; nothing is pickled.
"""

import json
import os
import select
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from rstar_math.config import GradingConfig
from rstar_math.errors import GradingError
from rstar_math.grading.judgement import Judgement, unknown
from rstar_math.types import Verdict

_START_S = 60.0
_REPLY_BYTES = 4096
_SCRIPT = Path(__file__).with_name("worker.py")
_KEPT_ENVIRONMENT = ("LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")

TIMED_OUT = unknown("The time limit of the pair passed.")
DIED = unknown("The grader process ended on this pair.")


class _Hung(Exception):
    """No full line within the time given."""


class _Gone(Exception):
    """The process has ended, or does not speak the protocol."""


@dataclass(slots=True)
class _Worker:
    """One process and what has been read from it but not used."""

    process: subprocess.Popen[bytes]
    number: int = 0
    rest: bytes = b""

    def send(self, message: dict[str, object]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message).encode("ascii") + b"\n")
            self.process.stdin.flush()
        except OSError as error:
            raise _Gone from error

    def receive(self, seconds: float) -> dict[str, object]:
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        fd = self.process.stdout.fileno()
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while b"\n" not in self.rest:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise _Hung
            chunk = os.read(fd, _REPLY_BYTES)
            self.rest += chunk
            if not chunk or len(self.rest) > 4 * _REPLY_BYTES:
                raise _Gone
        line, _, self.rest = self.rest.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError as error:
            raise _Gone from error
        if not isinstance(message, dict):
            raise _Gone
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
    """Up to `config.workers` processes, started when first needed."""

    def __init__(self, config: GradingConfig) -> None:
        self.config = config
        self.size = config.workers or min(4, os.cpu_count() or 1)
        self.pairs = 0
        """Pairs that were given to a process so far."""
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._idle: list[_Worker] = []
        self._slots = threading.BoundedSemaphore(self.size)
        self._lock = threading.Lock()
        self._closed = False

    def ask(self, pred: str, gold: str) -> Judgement:
        """The engine's judgement; UNKNOWN past the time limit. A process that had died before is
        replaced and the pair asked again. Raises `GradingError` if no process can be started."""
        if os.getpid() != self._pid:
            self._reset()
        with self._slots:
            self.pairs += 1
            for _ in range(2):
                worker = self._take()
                try:
                    judgement = self._exchange(worker, pred, gold)
                except _Hung:
                    self._discard(worker)
                    return TIMED_OUT
                except _Gone:
                    self._discard(worker)
                    continue
                except BaseException:
                    self._discard(worker)
                    raise
                self._give_back(worker)
                return judgement
            return DIED

    def _exchange(self, worker: _Worker, pred: str, gold: str) -> Judgement:
        worker.number += 1
        worker.send({"id": worker.number, "pred": pred, "gold": gold})
        reply = worker.receive(self.config.pair_s)
        if reply.get("id") != worker.number:
            raise _Gone
        try:
            return Judgement(Verdict(str(reply["verdict"])), str(reply["reason"]))
        except (KeyError, ValueError) as error:
            raise _Gone from error

    def _take(self) -> _Worker:
        while True:
            with self._lock:
                if self._closed:
                    raise GradingError("The grader is closed; make a new Grader to grade more.")
                worker = self._idle.pop() if self._idle else None
            if worker is None:
                return self._start()
            if worker.process.poll() is None:
                return worker
            self._discard(worker)

    def _start(self) -> _Worker:
        settings = {
            "path": sys.path,
            "memory_mb": self.config.memory_mb,
            "alarm_s": self.config.pair_s + 1.0,
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
                f"A grader process could not be started ({error}); check that {sys.executable!r} is"
                " there and may be run."
            ) from error
        worker = _Worker(process)
        try:
            worker.receive(_START_S)
        except (_Gone, _Hung) as error:
            worker.end()
            raise GradingError(
                "A grader process ended or hung before it was ready"
                f" (exit status {process.returncode});"
                f" grading.memory_mb is {self.config.memory_mb}: try more, or check"
                " the installation with `python -c 'import sympy, math_verify'`."
            ) from error
        except BaseException:
            worker.end()
            raise
        return worker

    def _give_back(self, worker: _Worker) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(worker)
                return
        worker.end()

    def _discard(self, worker: _Worker) -> None:
        worker.end()

    def close(self) -> None:
        """End the idle processes; busy ones end with their pair. The pool takes no more pairs."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        if os.getpid() == self._pid:
            for worker in idle:
                worker.end()
