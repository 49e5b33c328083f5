"""The solver: one configuration, many problems."""

from rstar_math.solver.solver import Here, Solution, Solver, solve

__all__ = ["Here", "Solution", "Solver", "solve"]
