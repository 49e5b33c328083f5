"""Problems: where they come from and how they are told apart."""

from rstar_math.problems.reader import problem_of, question_id, read_problems

__all__ = ["problem_of", "question_id", "read_problems"]
