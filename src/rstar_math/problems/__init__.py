"""Problems: where they come from and how they are told apart.

`sources` reads them from files, data sets and generators, `duplicates` and `decontamination` leave
out what is there twice and what evaluations ask, `difficulty` says how hard they are for a model,
`synthesis` has a model write new ones (`evolution.synthesis` from start to end), `writer` puts them
into a file.
"""

from rstar_math.problems.jsonl import problem_of, question_id, read_problems

__all__ = ["problem_of", "question_id", "read_problems"]
