"""Solves questions and problems with one configuration."""

from rstar_math.solver.solver import LocalSearcher, Solution, Solver, solve

__all__ = ["LocalSearcher", "Solution", "Solver", "solve"]
