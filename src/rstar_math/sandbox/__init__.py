"""Code that a model wrote, run safely and fast.

    pool         Sandbox: the Executor of a search            } parent side, async
    door         run_snippet: one snippet, sync               }
    schedule     which program goes where, and fan-outs       }
    programs     programs, limits, results, the cache         }
    connection   one zygote: its process and its socket       }
    launch       how a zygote is started                      }
    probing      what holds on this machine                   }
    child/       what runs inside: standard library only, see its own list

The layers, what each one stops and what none of them covers are in `docs/security.md`.
"""

from rstar_math.sandbox.executor import Sandbox, run_snippet
from rstar_math.sandbox.processes import versions
from rstar_math.sandbox.programs import UNPROTECTED, Layer, probe

__all__ = ["UNPROTECTED", "Layer", "Sandbox", "probe", "run_snippet", "versions"]
