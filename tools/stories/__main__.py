"""Writes the stories that ship with the package.

    python -m tools.stories 9000 2 src/rstar_math/problems/stories.jsonl.gz

The arguments are the number of stories, the seed and the file.
"""

import gzip
import json
import sys
from pathlib import Path

from tools.stories import stories


def packed(size: int, seed: int) -> bytes:
    """The stories as gzipped JSON lines. Equal arguments give equal bytes."""
    lines = []
    for story in stories(size, seed):
        problem = story.problem
        row = {
            "id": problem.id,
            "problem": problem.question.text,
            "answer": problem.reference,
            "level": problem.level,
            "solution": story.solution,
        }
        lines.append(json.dumps(row, ensure_ascii=False))
    return gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0)


if __name__ == "__main__":
    size, seed, path = sys.argv[1:]
    Path(path).write_bytes(packed(int(size), int(seed)))
