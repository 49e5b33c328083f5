"""What an evolution would take, before anything is spent: problems, calls, tokens and hours, from a
short pilot.

The pilot searches a few problems with the base and reckons with its rates; a trained policy writes
shorter steps, so the figure is an upper one for later rounds. A training is reckoned from the time
that a step of the optimiser takes.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rstar_math.evolution import gathering
from rstar_math.evolution.journal import Journal
from rstar_math.evolution.pilot import Habit, Pilot, fly
from rstar_math.evolution.recipe import Recipe
from rstar_math.evolution.recipe_sections import RoundSection
from rstar_math.evolution.watching import Silent, Watch
from rstar_math.search.strategy import Strategy, parse_strategies

KEPT = 2
"""Solutions reckoned to be kept of a problem."""
SIDES = 3
"""Sides of pairs reckoned to be run of a searched problem in the training of a preference model, as
were seen of 300 problems that a small model mostly missed; fewer where most are solved."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the work."""

    stage: str
    """Its name, with "(at most)" where it may be less."""
    problems: int
    calls: int
    """Requests to a model; 0 in a training."""
    tokens: int
    """Sampled in a search; run through the model, forward and back, in a training."""
    hours: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What an evolution would take."""

    counts: dict[str, int]
    """Problems read, left out by reason, to learn from, held out."""
    pilot: Pilot
    """What is reckoned with."""
    parts: list[Part]

    @property
    def hours(self) -> float:
        """Of all parts."""
        return sum(part.hours for part in self.parts)

    def as_json(self) -> dict[str, Any]:
        """All of it under plain names."""
        return {**asdict(self), "hours": self.hours}


async def estimate(recipe: Recipe, *, watch: Watch | None = None) -> Plan:
    """The plan of a recipe; takes a minute or so with a small model. Raises `RstarError`."""
    watch = watch or Silent()
    with (
        tempfile.TemporaryDirectory(prefix="rstar-plan-") as folder,
        Journal.open(Path(folder) / "run", recipe.model_dump(mode="json")) as journal,
    ):
        watch.begin("0/problems", "gather problems", None, 0)
        counts = gathering.gather(journal, recipe)["counts"]
        pilot = await fly(journal, recipe, watch)
        sizes = [
            len(gathering.problems_in(journal, gathering.evaluation_file(at)))
            for at in range(1, len(recipe.evaluation.sets) + 1)
        ]
    return Plan(counts, pilot, reckon(recipe, pilot, counts, sizes))


def reckon(
    recipe: Recipe, pilot: Pilot, counts: dict[str, int], sizes: Sequence[int]
) -> list[Part]:
    """The parts of all rounds; `counts` are those of the problems "to learn from" and "held out",
    `sizes` those of the sets to measure on."""
    return _Reckoning(recipe, pilot).parts(counts, sizes)


class _Reckoning:
    """The parts of a plan from the pilot's rates."""

    def __init__(self, recipe: Recipe, pilot: Pilot) -> None:
        self.recipe, self.pilot = recipe, pilot
        self._parts: list[Part] = []

    def parts(self, counts: dict[str, int], sizes: Sequence[int]) -> list[Part]:
        """See `reckon`."""
        train, held = counts["to learn from"], counts["held out"]
        train += self._synthesis()
        kept = 0.0
        if self.recipe.first:
            self._sampled("0/held-out", held, self.pilot.whole)
            self._measure(0, sizes)
        for number, one in enumerate(self.recipe.rounds, 1):
            pool = counts.get(gathering.chosen_by(one), train)
            size = min(pool, one.problems or pool)
            if one.data == "search":
                self._search(number, one, size)
            found = size * (1 if one.data == "annotated" else KEPT)
            kept = found + (kept if self.recipe.keep == "all" else 0)
            if one.policy:
                self._policy(number, kept, held)
            if one.ppm and one.data == "search":
                self._ppm(number, size, held)
            self._measure(number, sizes)
        return self._parts

    def _synthesis(self) -> int:
        """New problems, reckoned as if all drafts were as long as they may be, new and kept: how
        many. Their solutions are reckoned to be as long as the pilot's."""
        wanted = self.recipe.synthesis
        if wanted.requests:
            tokens = wanted.most * wanted.max_tokens
            habit = Habit(wanted.requests, tokens, tokens / max(self.pilot.rate, 1e-9))
            self._sampled("0/drafts (at most)", 1, habit, shown=wanted.most)
            solutions = self.pilot.sampled(wanted.solutions)
            self._sampled("0/synthesis (at most)", wanted.most, solutions)
        return wanted.most

    def _search(self, number: int, one: RoundSection, size: int) -> None:
        self._sampled(f"{number}/search", size, self.pilot.rollout.times(one.rollouts * one.runs))
        for turn, more in enumerate(one.more, 1):
            self._sampled(f"{number}/more-{turn} (at most)", size, self.pilot.rollout.times(more))

    def _policy(self, number: int, solutions: float, held: int) -> None:
        settings = self.recipe.sft
        texts = solutions * settings.epochs
        if settings.max_steps is not None:
            texts = min(texts, settings.max_steps * settings.batch)
        self._trained(f"{number}/policy", solutions, texts)
        self._sampled(f"{number}/held-out", held, self.pilot.whole)

    def _ppm(self, number: int, size: int, held: int) -> None:
        settings = self.recipe.preference
        sides = size * SIDES * settings.epochs
        if settings.max_steps is not None:
            sides = min(sides, settings.max_steps * settings.batch * SIDES)
        self._trained(f"{number}/ppm", size, sides)
        self._sampled(f"{number}/samples", held, self.pilot.sampled(self.recipe.gate.samples))

    def _measure(self, number: int, sizes: Sequence[int]) -> None:
        section = self.recipe.evaluation
        last = number == len(self.recipe.rounds)
        system = number > 0 and (last or section.system_rounds == "every")
        for at, (chosen, problems) in enumerate(zip(section.sets, sizes, strict=True), 1):
            self._strategies(f"{number}/policy-{at}", problems, section.policy)
            if system and chosen.system:
                self._strategies(f"{number}/system-{at}", problems, section.system)

    def _strategies(self, stage: str, problems: int, names: Sequence[str]) -> None:
        """A stage that runs some strategies on a set."""
        habits = [self._of(strategy) for strategy in parse_strategies(",".join(names))]
        if habits:
            self._sampled(stage, problems, Habit.total(habits))

    def _of(self, strategy: Strategy) -> Habit:
        """What a strategy takes on a problem."""
        section = self.recipe.evaluation
        if strategy.kind == "greedy":
            return self.pilot.whole
        if strategy.kind in ("sc", "bon"):
            return self.pilot.sampled(strategy.n or 1)
        rollouts = (strategy.n or section.rollouts) * (strategy.runs or 1)
        wide = self.pilot.rollout.wider(section.candidates / self.pilot.candidates)
        return wide.times(rollouts)

    def _sampled(
        self, stage: str, problems: int, habit: Habit, *, shown: int | None = None
    ) -> None:
        whole = habit.times(problems)
        hours = (self.pilot.start_s + whole.seconds) / 3600
        size = problems if shown is None else shown
        self._parts.append(Part(stage, size, round(whole.calls), round(whole.tokens), hours))

    def _trained(self, stage: str, problems: float, texts: float) -> None:
        tokens = texts * self.pilot.length
        hours = tokens / self.pilot.trained / 3600
        self._parts.append(Part(stage, round(problems), 0, round(tokens), hours))
