"""What an evolution would take, before anything is spent: problems, calls, tokens and hours, from a
short pilot.

The pilot searches a few problems with the base and reckons with its rates; a trained policy writes
shorter steps, so the figure is an upper one for later rounds. A training is reckoned from the time
that one step of the optimiser takes.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

from rstar_math.evolution import gathering, learning
from rstar_math.evolution.journal import Journal
from rstar_math.evolution.models import Made, Pair, config_of, strong_config
from rstar_math.evolution.recipe import Recipe, RoundSection
from rstar_math.evolution.watching import Silent, Watch
from rstar_math.search.strategy import Strategy, parse_strategies
from rstar_math.solver import Solver
from rstar_math.steps import trained_prompt
from rstar_math.types import Cost, Problem

PILOT = 4
"""Problems searched in the pilot."""
KEPT = 2
"""Solutions reckoned to be kept of a problem."""
SIDES = 8
"""Sides of pairs reckoned to be run of a problem in the training of a preference model."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the work."""

    stage: str
    problems: int
    calls: int
    tokens: int
    """Sampled in a search; run through the model, forward and back, in a training."""
    hours: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What an evolution would take."""

    counts: dict[str, int]
    """Problems read, left out by reason, to learn from, held out."""
    tokens_a_problem: float
    """Sampled tokens of one rollout, as the pilot saw them."""
    tokens_a_second: float
    """Sampled, by all problems in flight."""
    trained_a_second: float
    """Tokens that a training of the policy gets through."""
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
        problems = gathering.problems_in(journal, gathering.TRAIN)
        pair = Pair(Made(0, "", learning.base_address(journal, recipe), "base"))
        pilot = await _pilot(recipe, pair, problems[:PILOT], watch)
        watch.begin("0/pilot", "one step of training", None, 0)
        pilot = _trained(pilot, recipe, learning.base_of(journal, recipe), problems[:PILOT])
        sizes = [
            len(gathering.problems_in(journal, gathering.evaluation_file(at)))
            for at in range(1, len(recipe.evaluation.sets) + 1)
        ]
    return _reckoned(recipe, counts, sizes, pilot)


@dataclass(frozen=True, slots=True)
class _Pilot:
    """Means of one rollout, and the rate."""

    calls: float
    tokens: float
    rate: float
    length: float = 0.0
    """Tokens of a whole solution with its question."""
    trained: float = 1.0
    """Tokens a second of a training."""


async def _pilot(recipe: Recipe, pair: Pair, problems: Sequence[Problem], watch: Watch) -> _Pilot:
    """Search a few problems with a few rollouts."""
    one = recipe.rounds[0]
    options: dict[str, Any] = {"candidates": one.candidates, "rollouts": 2}
    if one.model is not None:
        config = strong_config(recipe, one.model, **options)
    else:
        config = config_of(recipe, pair, scored=False, **options)
    watch.begin("0/pilot", "a short pilot", len(problems), 0)
    async with Solver(config) as solver:
        began = monotonic()
        costs: list[Cost] = []
        async for problem, solution in solver.map(problems, Strategy("mcts", 2)):
            costs.append(solution.tree.cost)
            tokens = solution.tree.cost.sampled_tokens
            watch.advance(problem, solved=False, tokens=tokens)
        seconds = monotonic() - began
    whole = Cost.total(costs)
    rollouts = 2 * max(len(costs), 1)
    rate = whole.sampled_tokens / max(seconds, 1e-9)
    return _Pilot(whole.calls / rollouts, whole.sampled_tokens / rollouts, rate)


def _trained(pilot: _Pilot, recipe: Recipe, base: str, problems: Sequence[Problem]) -> _Pilot:
    """The pilot with what two steps of the optimiser took; the second is timed."""
    from rstar_math.models.checkpoints import load_tokenizer
    from rstar_math.training.policy import train_policy
    from rstar_math.training.rows import SolutionRow

    text = "# Put the numbers of the question together.\nprint(1 + 2)\n<code/>\n" * 4
    rows = [
        SolutionRow(prompt=trained_prompt(problem.question), completion=text, problem=problem.id)
        for problem in problems
    ]
    tokenizer = load_tokenizer(base)
    lengths = [len(tokenizer(row.prompt + row.completion).input_ids) for row in rows]
    batch = min(recipe.sft.batch, 8)
    update = {"batch": batch, "max_steps": 2, "epochs": 1, "save_every": 10**6}
    settings = recipe.sft.model_copy(update=update)
    moments: list[float] = []

    def note(line: str) -> None:
        moments.append(monotonic())

    with tempfile.TemporaryDirectory(prefix="rstar-plan-") as folder:
        train_policy((rows * batch)[: 2 * batch], base, Path(folder) / "policy", settings, say=note)
    length = sum(lengths) / len(lengths)
    seconds = max(moments[-1] - moments[0], 1e-9)
    return replace(pilot, length=length, trained=batch * length / seconds)


def _reckoned(recipe: Recipe, counts: dict[str, int], sizes: list[int], pilot: _Pilot) -> Plan:
    """The plan from the pilot's rates."""
    parts: list[Part] = []

    def searched(stage: str, problems: int, rollouts: float) -> None:
        calls, tokens = problems * rollouts * pilot.calls, problems * rollouts * pilot.tokens
        hours = tokens / pilot.rate / 3600
        parts.append(Part(stage, problems, round(calls), round(tokens), hours))

    def trained(stage: str, problems: int, texts: float) -> None:
        tokens = texts * pilot.length
        parts.append(Part(stage, problems, 0, round(tokens), tokens / pilot.trained / 3600))

    train, held = counts["to learn from"], counts["held out"]
    for number, one in enumerate(recipe.rounds, 1):
        size = min(train, one.problems or train)
        if one.data == "search":
            searched(f"{number}/search", size, _rollouts(one))
            for turn, more in enumerate(one.more, 1):
                searched(f"{number}/more-{turn} (at most)", size, more)
        solutions = size * (1 if one.data == "annotated" else KEPT)
        if one.policy:
            trained(f"{number}/policy", solutions, solutions * recipe.sft.epochs)
            searched(f"{number}/held-out", held, 1 / one.candidates)
        if one.ppm and one.data == "search":
            trained(f"{number}/ppm", size, size * SIDES * recipe.preference.epochs)
            searched(f"{number}/samples", held, recipe.gate.samples / one.candidates)
        last = number == len(recipe.rounds) or recipe.evaluation.system_rounds == "every"
        names = [*recipe.evaluation.policy, *(recipe.evaluation.system if last else ())]
        for at, problems in enumerate(sizes, 1):
            share = sum(_size(recipe, strategy) for strategy in parse_strategies(",".join(names)))
            searched(f"{number}/measure-{at}", problems, share / one.candidates)
    return Plan(counts, pilot.tokens, pilot.rate, pilot.trained, parts)


def _rollouts(one: RoundSection) -> float:
    return float(one.rollouts * one.runs)


def _size(recipe: Recipe, strategy: Strategy) -> float:
    """About how many samples of whole solutions a strategy takes."""
    if strategy.kind == "greedy":
        return 1.0
    if strategy.kind in ("sc", "bon"):
        return float(strategy.n or 1)
    section = recipe.evaluation
    return float((strategy.n or section.rollouts) * section.candidates * (strategy.runs or 1))
