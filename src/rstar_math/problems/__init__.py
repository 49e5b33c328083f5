"""Problems: loading, filtering and synthesis.

- `sources` reads files, data sets and generators.
- `benchmarks` is the table of public benchmarks.
- `filtering` removes duplicates and problems that occur in an evaluation set.
- `synthesis` lets a model write new problems.
- `jsonl` reads and writes problem files.
"""

from rstar_math.problems.jsonl import parse_problem, question_id, read_problems

__all__ = ["parse_problem", "question_id", "read_problems"]
