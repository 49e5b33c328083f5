"""Solves questions and problems with one configuration."""

from rstar_math.solver.local import LocalSearcher
from rstar_math.solver.solver import Solution, Solver, solve

__all__ = ["LocalSearcher", "Solution", "Solver", "solve"]
