"""Runs model-written code safely and fast.

    executor    Sandbox, the Executor of a search; run_snippet for one snippet
    programs    programs, limits, results and their cache; probing of the layers
    processes   starting a zygote and talking to it
    child/      what runs inside: standard library only

The layers, what each one stops and what none of them covers are in `docs/security.md`.
"""

from rstar_math.sandbox.executor import Sandbox, run_snippet
from rstar_math.sandbox.processes import versions
from rstar_math.sandbox.programs import UNPROTECTED, Layer, probe

__all__ = ["UNPROTECTED", "Layer", "Sandbox", "probe", "run_snippet", "versions"]
