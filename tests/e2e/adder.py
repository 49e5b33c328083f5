"""A model that adds, for a fake server: two numbers a question, right half of the time, by the
request's seed."""

import random
import re
from collections.abc import Mapping
from typing import Any


def answer(body: Mapping[str, Any]) -> list[str]:
    """Samples for a request for the next step of "Add A and B."."""
    question, _, solution = str(body["prompt"]).rpartition("Question: ")[2].partition("\n")
    rng = random.Random(f"{body['seed']} {question} {solution}")
    if solution.endswith("</output>\n"):
        said = solution.split("<output>\n")[-1].partition("\n")[0]
        return [f"It is \\boxed{{{said}}}.\n<answer/>"] * body["n"]
    a, b = map(int, re.findall(r"\d+", question))
    if solution.count("<step/>") == 0:
        return [
            f"# Take the first.\na = {a + rng.choice((0, 0, 1))}\n<step/>" for _ in range(body["n"])
        ]
    return [f"# Add.\nprint(a + {b + rng.choice((0, 0, 1))})\n<code/>" for _ in range(body["n"])]
