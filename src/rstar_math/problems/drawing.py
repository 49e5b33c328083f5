"""Some problems of many, by a seed."""

from collections.abc import Sequence

from rstar_math.seeding import derive
from rstar_math.types import Problem


def drawn(problems: Sequence[Problem], size: int | None, seed: int) -> list[Problem]:
    """At most `size` of some problems, in their order. Who is drawn depends on ids alone, so that a
    larger draw holds a smaller one."""
    if size is None or size >= len(problems):
        return list(problems)
    ranked = sorted(problems, key=lambda problem: derive(seed, problem.id))
    chosen = {problem.id for problem in ranked[:size]}
    return [problem for problem in problems if problem.id in chosen]
