"""Runs model-written code safely and fast.

    executor    Sandbox, the Executor of a search; run_snippet for a single program
    programs    programs, limits, results and their cache; tests the layers of confinement
    processes   starts a zygote and talks to it
    child/      runs inside the sandbox: standard library only

`docs/security.md` lists the layers, what each one stops and what none of them covers.
"""

from rstar_math.sandbox.executor import Sandbox, run_snippet
from rstar_math.sandbox.processes import versions
from rstar_math.sandbox.programs import UNPROTECTED, Layer, probe

__all__ = ["UNPROTECTED", "Layer", "Sandbox", "probe", "run_snippet", "versions"]
