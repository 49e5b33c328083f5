"""What a forked child does. Trusted until the first line of the snippet runs, hostile from then on:
nothing it says afterwards is a fact, only the kernel's word on how it ended is.

All functions that are needed after the snippet has run are bound before, so that code which
replaces `os.write` for itself does not stop an honest report by accident.
"""

import builtins
import errno
import json
import os
import random
import re
import sys
import time
import types
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from . import kernel
from .confine import Layers, close_all_but
from .limits import Limits

REPORT = 3
"""The report's descriptor in every child."""
SEED = 0
MESSAGE_CHARS = 300
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


def enter(report: int, keep: Sequence[int], zygote: int, layers: Layers) -> None:
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
    finish(perform(step, scope, pipes) | {"prefix_s": prefix_s})


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


def perform(step: str, scope: dict[str, Any], pipes: tuple[int, int]) -> Report:
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
