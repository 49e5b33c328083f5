"""rStar-Math and rStar: tree search over executed reasoning steps, and training from the trees."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rstar_math.config.sections import Config as Config
    from rstar_math.errors import RstarError as RstarError
    from rstar_math.models.default import load_config as load_config
    from rstar_math.problems.jsonl import read_problems as read_problems
    from rstar_math.runs.table import RunTable as RunTable
    from rstar_math.runs.table import read_run as read_run
    from rstar_math.search.mcts import grow as grow
    from rstar_math.search.tree import Tree as Tree
    from rstar_math.solver.solution import Solution as Solution
    from rstar_math.solver.solver import Solver as Solver
    from rstar_math.solver.solver import solve as solve
    from rstar_math.types import Problem as Problem
    from rstar_math.types import Question as Question
    from rstar_math.types import Step as Step

try:
    __version__ = version("rstar-math")
except PackageNotFoundError:
    __version__ = "0+unknown"

_EXPORTS: dict[str, str] = {
    "Config": "config",
    "load_config": "models.default",
    "RstarError": "errors",
    "read_problems": "problems",
    "RunTable": "runs.table",
    "read_run": "runs.table",
    "Tree": "search",
    "grow": "search",
    "Solution": "solver",
    "Solver": "solver",
    "solve": "solver",
    "Problem": "types",
    "Question": "types",
    "Step": "types",
}
"""The subpackage or module that defines each public name."""

__all__ = [
    "Config",
    "Problem",
    "Question",
    "RstarError",
    "RunTable",
    "Solution",
    "Solver",
    "Step",
    "Tree",
    "grow",
    "load_config",
    "read_problems",
    "read_run",
    "solve",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import rstar_math` stays fast."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'rstar_math' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"rstar_math.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    """The public names and the imported modules, for completion in a shell or a notebook."""
    return sorted({*globals(), *__all__})
