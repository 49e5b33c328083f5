"""Runs model-written code safely and fast.

    executor    Sandbox, the Executor of a search; run_snippet for a single program
    scheduling  decides which programs share a fan-out
    programs    programs, limits, results and their cache; tests the layers of confinement
    processes   starts a zygote and talks to it
    child/      runs inside the sandbox: standard library only

How the code of one step is run:

    caller      Sandbox.run -> run_program -> _dispatch -> _send -> processes.Zygote.submit
    zygote      child.supervisor: Supervisor._accept -> _start -> child.forker
    new process child.execution: run_program -> replay_prefix -> run_step -> report_and_exit
    zygote      Supervisor._finish -> child.run.build_reply
    caller      Zygote._receive -> Sandbox._on_reply -> programs.parse_reply

Several next steps of one prefix go through `child.fanout` instead, which runs the prefix once.

`docs/security.md` lists the layers, what each one stops and what none of them covers.
"""

from rstar_math.sandbox.executor import Sandbox, run_snippet
from rstar_math.sandbox.processes import versions
from rstar_math.sandbox.programs import UNPROTECTED, Layer, probe

__all__ = ["UNPROTECTED", "Layer", "Sandbox", "probe", "run_snippet", "versions"]
