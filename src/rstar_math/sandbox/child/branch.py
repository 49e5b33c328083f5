"""The processes of a fan-out: the one that runs the prefix, and the candidates forked from it."""

import json
import os
import random
import socket
from typing import NoReturn

from . import kernel, snippet
from .confine import Layers, close_all_but
from .limits import Limits


def run_prefix(
    codes: list[str],
    ends: list[tuple[int, int, int]],
    control: socket.socket,
    limits: Limits,
    layers: Layers,
) -> NoReturn:
    """The prefix's process: run it, then fork once for each candidate, then end."""
    zygote = os.getppid()
    layers.confine_forking(limits, 3 * len(ends) + 64, control)
    control.close()
    fork, write, leave, dumps = os.fork, os.write, os._exit, json.dumps
    state, restore = random.getstate, random.setstate
    scope, codes = snippet.begin(codes)
    prefix_s = snippet.replay(codes, scope)
    write(snippet.REPORT, dumps({"prefix_s": prefix_s}).encode("ascii"))
    drawn = state()
    for end in ends:
        if not fork():
            restore(drawn)  # `random` seeds itself anew in every fork
            become(end, scope, zygote, layers)
    while True:
        leave(0)


def become(
    end: tuple[int, int, int], scope: dict[str, object], zygote: int, layers: Layers
) -> NoReturn:
    """A candidate's process: wait for its turn, confine, run the step, report."""
    channel, out, err = end
    os.dup2(channel, snippet.REPORT)
    close_all_but([snippet.REPORT, out, err])
    os.write(snippet.REPORT, b"+")
    text = b"".join(iter(lambda: os.read(snippet.REPORT, 1 << 16), b""))
    if not text:
        os._exit(0)
    # Told to go, so the prefix's process has ended and the zygote is the parent.
    kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)
    if os.getppid() != zygote:
        os._exit(0)
    layers.confine_candidate()
    snippet.finish(snippet.perform(json.loads(text), scope, (out, err)))
