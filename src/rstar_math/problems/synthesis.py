"""New problems by a model from seed problems, kept only if independent solutions agree (rStar-Math,
arXiv:2501.04519: at least 3 of 10)."""

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rstar_math.errors import ConfigError, ContextExceeded, RequestFailed
from rstar_math.meter import metering
from rstar_math.problems.decontamination import Evaluations, Match, decontaminate
from rstar_math.problems.drafts import STOPS, Agreement, agreement, read_draft, synthesis_prompt
from rstar_math.problems.duplicates import deduplicate
from rstar_math.problems.reader import question_id
from rstar_math.protocols import Completer, Grouper
from rstar_math.seeding import derive
from rstar_math.tasks import together
from rstar_math.types import Cost, Problem, Question

Solve = Callable[[Question, int, int], Awaitable[Sequence[str | None]]]
"""(question, n, seed) -> the answers of n independent solutions, None for each without one."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How many problems are asked for, and when one is kept."""

    requests: int
    """Requests to the model, each with seeds of its own, at least 1."""
    each: int = 4
    """New problems sampled with the same seeds."""
    shots: int = 3
    """Seed problems shown."""
    solutions: int = 10
    """Independent solutions of each new problem (paper: 10)."""
    agreeing: int = 3
    """Of them at least so many must agree, and more than on any other answer (paper: 3)."""
    temperature: float = 1.0
    max_tokens: int = 256
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Synthetic:
    """A new problem and where it came from."""

    problem: Problem
    """Its reference is the answer agreed on."""
    seeds: tuple[str, ...]
    """Ids of the seed problems that the model was shown."""
    model: str
    agreement: Agreement

    def provenance(self) -> dict[str, Any]:
        """As the key "provenance" of a problem file tells it."""
        return {
            "seeds": list(self.seeds),
            "model": self.model,
            "agreeing": self.agreement.agreeing,
            "solutions": self.agreement.solutions,
        }


@dataclass(frozen=True, slots=True)
class Synthesis:
    """What became of the drafts; every draft is kept or counted in `dropped`."""

    kept: list[Synthetic]
    dropped: dict[str, int]
    """By reason: "unreadable", "duplicate", "known" (a seed or an evaluation's question, see
    `known`), "unsolved" (the solver could not be asked), "no answer", "disagreement"."""
    known: list[Match]
    cost: Cost
    """Of the drafts and their solutions."""


async def synthesise(
    completer: Completer,
    seeds: Sequence[Problem],
    recipe: Recipe,
    *,
    model: str,
    solve: Solve,
    group: Grouper,
    evaluations: Evaluations | None = None,
) -> Synthesis:
    """New problems with references. What is a duplicate, a seed or a question of an evaluation is
    dropped before it is solved. The same answers of the model give the same problems, in any
    order of arrival. Raises `ModelError` where the model cannot be asked at all; what it cost goes
    to the caller's meter too.
    """
    if recipe.requests < 1 or len(seeds) < recipe.shots:
        raise ConfigError(
            f"Synthesis takes at least 1 request and {recipe.shots} seeds; it has "
            f"{recipe.requests} and {len(seeds)}."
        )
    tally: Counter[str] = Counter()
    with metering() as cost:
        drafts = await _drafts(completer, seeds, recipe, tally)
        fresh, known = _fresh([problem for problem, _ in drafts], seeds, evaluations, tally)
        shown = {problem.id: names for problem, names in reversed(drafts)}
        judged = await together(_agreed(problem, recipe, solve, group) for problem in fresh)
    kept: list[Synthetic] = []
    for problem, found in zip(fresh, judged, strict=True):
        if found is None or found.answer is None or found.agreeing < recipe.agreeing:
            tally[_reason(found)] += 1
            continue
        solved = Problem(problem.question, found.answer, problem.source)
        kept.append(Synthetic(solved, shown[problem.id], model, found))
    return Synthesis(kept, {reason: count for reason, count in tally.items() if count}, known, cost)


def _reason(found: Agreement | None) -> str:
    if found is None:
        return "unsolved"
    return "disagreement" if found.agreeing else "no answer"


async def _drafts(
    completer: Completer, seeds: Sequence[Problem], recipe: Recipe, tally: Counter[str]
) -> list[tuple[Problem, tuple[str, ...]]]:
    """What the model wrote, as problems without references, each with the ids of its seeds."""

    async def ask(number: int) -> list[tuple[Problem, tuple[str, ...]]]:
        seed = derive(recipe.seed, "synthesis", number)
        shown = random.Random(seed).sample(list(seeds), recipe.shots)
        found = await completer.complete(
            synthesis_prompt(shown),
            n=recipe.each,
            stop=STOPS,
            max_tokens=recipe.max_tokens,
            temperature=recipe.temperature,
            seed=seed,
        )
        texts = [read_draft(one.text) if one.finished else None for one in found]
        tally["unreadable"] += texts.count(None)
        names = tuple(problem.id for problem in shown)
        return [(_draft(text), names) for text in texts if text is not None]

    return [draft for some in await together(map(ask, range(recipe.requests))) for draft in some]


def _draft(text: str) -> Problem:
    return Problem(Question(f"synthetic/{question_id(text)}", text), None, "synthetic")


def _fresh(
    drafts: Sequence[Problem],
    seeds: Sequence[Problem],
    evaluations: Evaluations | None,
    tally: Counter[str],
) -> tuple[list[Problem], list[Match]]:
    """The drafts that are new, and what the others are."""
    single = deduplicate(drafts)
    tally["duplicate"] += len(single.removed)
    first = decontaminate(single.kept, Evaluations({"seeds": seeds}))
    known = first.removed
    kept = first.kept
    if evaluations is not None:
        second = decontaminate(kept, evaluations)
        known, kept = [*known, *second.removed], second.kept
    tally["known"] += len(single.kept) - len(kept)
    return kept, known


async def _agreed(
    problem: Problem, recipe: Recipe, solve: Solve, group: Grouper
) -> Agreement | None:
    """What the solutions of a draft agree on; None where the solver could not be asked about it."""
    seed = derive(recipe.seed, "solutions", problem.id)
    try:
        answers = await solve(problem.question, recipe.solutions, seed)
    except (ContextExceeded, RequestFailed):
        return None
    classes = await group([answer for answer in answers if answer is not None])
    return agreement(answers, classes)
