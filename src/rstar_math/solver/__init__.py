"""Solves questions and problems with one configuration."""

from rstar_math.solver.local import LocalSearcher
from rstar_math.solver.solution import Solution
from rstar_math.solver.solver import Solver, solve

__all__ = ["LocalSearcher", "Solution", "Solver", "solve"]
