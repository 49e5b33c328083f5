"""Runs a worker process of the grader: pairs on stdin, grades on stdout, one JSON line each.

`grader.py` starts this file as a script with one JSON argument: `path` (the parent's module search
path), `memory_mb` and `alarm_s`. The process ends when its input ends. SIGALRM ends it when one
pair takes longer than `alarm_s`, so it cannot outlive its parent for long. Input is never executed.
Once the modules are loaded, an audit hook forbids starting processes, opening sockets and writing
files.
"""

import json
import os
import resource
import signal
import sys

_FORBIDDEN_EVENTS = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "subprocess.",
    "socket.",
    "ctypes.dlopen",
)
_hook_enabled = False


def _audit(event: str, args: tuple[object, ...]) -> None:
    if not _hook_enabled:
        return
    if event.startswith(_FORBIDDEN_EVENTS):
        raise PermissionError(f"{event} is forbidden in a grader process")
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        raise PermissionError("writing files is forbidden in a grader process")


def _enable_hook() -> None:
    global _hook_enabled
    _hook_enabled = True


def main() -> None:
    """Grade pairs until the input ends."""
    settings = json.loads(sys.argv[1])
    sys.path[:] = [entry for entry in settings["path"] if entry]
    out = os.fdopen(os.dup(1), "w", encoding="ascii")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    limit = settings["memory_mb"] * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.addaudithook(_audit)
    from rstar_math.grading.engine import grade_with_engine

    _enable_hook()
    print(json.dumps({"ready": True}), file=out, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, settings["alarm_s"])
        try:
            grade = grade_with_engine(request["pred"], request["gold"])
            reply = {"verdict": grade.verdict.value, "reason": grade.reason}
        except MemoryError:
            reply = {"verdict": "unknown", "reason": "The pair needs too much memory."}
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps({"id": request["id"], **reply}), file=out, flush=True)


if __name__ == "__main__":
    main()
