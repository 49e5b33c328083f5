"""Problems: where they come from and how they are told apart.

`sources` reads files, data sets and generators, `benchmarks` knows public sets by name, `filtering`
removes duplicates and contaminated problems, `synthesis` has a model write new ones, `jsonl` reads
and writes files.
"""

from rstar_math.problems.jsonl import problem_of, question_id, read_problems

__all__ = ["problem_of", "question_id", "read_problems"]
