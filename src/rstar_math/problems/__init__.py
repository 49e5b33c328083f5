"""Problems: where they come from and how they are told apart."""

from rstar_math.problems.reader import question_id, read_problems

__all__ = ["question_id", "read_problems"]
