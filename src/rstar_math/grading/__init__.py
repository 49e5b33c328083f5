"""Decides whether two answers are equal, and says why.

Answers are hostile input. They are parsed under caps and never executed. Pairs that exact
arithmetic cannot decide go to worker processes with a time limit and a memory cap.
"""

from rstar_math.extraction import extract_answer
from rstar_math.grading.grader import Grader, grade, grade_many
from rstar_math.grading.rules import Grade

__all__ = ["Grade", "Grader", "extract_answer", "grade", "grade_many"]
