"""The solver: one configuration, many problems."""

from rstar_math.solver.solver import LocalSearcher, Solution, Solver, solve

__all__ = ["LocalSearcher", "Solution", "Solver", "solve"]
