"""The grader's worker process: reads pairs from stdin, writes verdicts to stdout, one JSON line
each.

Started as a script by `pool.py` with one JSON argument: `path` (the parent's module search path),
`memory_mb` and `alarm_s`. It ends when its input ends, and by SIGALRM when one pair takes longer
than `alarm_s`, so that it never outlives its parent for long. Nothing read here is ever run:
`engine.load` takes `eval` from the parsers, and an audit hook refuses to start processes, open
sockets or write files once the modules are loaded.
"""

import json
import os
import resource
import signal
import sys

_REFUSED = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "subprocess.",
    "socket.",
    "ctypes.dlopen",
)
_armed = False


def _audit(event: str, args: tuple[object, ...]) -> None:
    if not _armed:
        return
    if event.startswith(_REFUSED):
        raise PermissionError(f"a grader process may not do {event}")
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        raise PermissionError("a grader process may not write files")


def _arm(on: bool) -> None:
    global _armed
    _armed = on


def main() -> None:
    """Serve until the input ends."""
    settings = json.loads(sys.argv[1])
    sys.path[:] = [entry for entry in settings["path"] if entry]
    out = os.fdopen(os.dup(1), "w", encoding="ascii")
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    limit = settings["memory_mb"] * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.addaudithook(_audit)
    from rstar_math.grading.engine import decide, load

    load()
    _arm(True)
    print(json.dumps({"ready": True}), file=out, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, settings["alarm_s"])
        try:
            judgement = decide(request["pred"], request["gold"])
            reply = {"verdict": judgement.verdict.value, "reason": judgement.reason}
        except MemoryError:
            reply = {"verdict": "unknown", "reason": "The pair needs too much memory."}
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps({"id": request["id"], **reply}), file=out, flush=True)


if __name__ == "__main__":
    main()
