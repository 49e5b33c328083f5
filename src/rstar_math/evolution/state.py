"""The course of an evolution so far, read from its journal."""

from dataclasses import asdict, dataclass, field
from typing import Any

from rstar_math.evolution.gathering import title_sets
from rstar_math.evolution.journal import ROUND, Facts, Journal
from rstar_math.evolution.recipe import checked


@dataclass(slots=True)
class RoundState:
    """What a round came to; round 0 is the base. Empty where it did not come so far."""

    number: int
    done: bool = False
    """Whether all of it was done, its measurements too."""
    searched: int = 0
    """Problems searched."""
    solved: int = 0
    """Those that any path of its searches solved."""
    by_level: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Problems searched and solved, by level or source."""
    by_success: dict[str, int] = field(default_factory=dict)
    """Problems searched, by how likely the policy is to come to the reference."""
    solutions: int | None = None
    pairs: int | None = None
    suspects: int = 0
    """Problems whose reference is probably wrong."""
    unreliable: int = 0
    """Problems that a model wrote and whose solutions mostly contradict their reference."""
    held_out: Facts | None = None
    """The policy's greedy answers on held-out problems: share, interval_95, graded, tokens."""
    policy: dict[str, dict[str, Facts]] = field(default_factory=dict)
    """By set and strategy: share, interval_95, graded, tokens (mean sampled of a problem)."""
    system: dict[str, dict[str, Facts]] = field(default_factory=dict)
    ppm: Facts | None = None
    policy_gate: Facts | None = None
    ppm_gate: Facts | None = None

    def as_json(self) -> dict[str, Any]:
        """All of it under plain names."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Course:
    """All rounds, the base first."""

    rounds: list[RoundState]
    complete: bool


def course(journal: Journal) -> Course:
    """The course of an evolution, which may be under way."""
    recipe = checked(journal.recipe(), str(journal.folder))
    names = title_sets(recipe.evaluation.sets)
    rounds = [RoundState(number) for number in range(len(recipe.rounds) + 1)]
    for one in rounds:
        _searched(one, journal)
        _learned(one, journal)
        _measured(one, journal, names)
        one.done = journal.facts(f"{one.number}/{ROUND}") is not None
    return Course(rounds, rounds[-1].done)


def _searched(one: RoundState, journal: Journal) -> None:
    """Fill in what was searched: later passes solve some of what earlier ones left."""
    first = journal.facts(f"{one.number}/search")
    if first is None:
        return
    one.searched, one.solved = first["problems"], first["solved"]
    one.by_success = first.get("by_success", {})
    solved = {level: row[1] for level, row in first["by_level"].items()}
    turn = 1
    while (more := journal.facts(f"{one.number}/more-{turn}")) is not None:
        one.solved += more["solved"]
        for level, row in more["by_level"].items():
            solved[level] = solved.get(level, 0) + row[1]
        turn += 1
    one.by_level = {level: (row[0], solved[level]) for level, row in first["by_level"].items()}


def _learned(one: RoundState, journal: Journal) -> None:
    """Fill in what was learned from."""
    curated = journal.facts(f"{one.number}/curate")
    if curated is not None:
        one.solutions, one.pairs = curated["to_train_on"], curated.get("pairs")
        one.suspects = len(curated.get("suspects", ()))
        one.unreliable = len(curated.get("unreliable", ()))
    one.ppm = journal.facts(f"{one.number}/ppm")
    one.policy_gate = journal.facts(f"{one.number}/policy-gate")
    one.ppm_gate = journal.facts(f"{one.number}/ppm-gate")


def _measured(one: RoundState, journal: Journal, names: list[str]) -> None:
    """Fill in what was measured of models that this round made."""
    held = journal.facts(f"{one.number}/held-out")
    if held is not None:
        one.held_out = _figures(held).get("greedy")
    for at, name in enumerate(names, 1):
        for kind, found in (("policy", one.policy), ("system", one.system)):
            facts = journal.facts(f"{one.number}/{kind}-{at}")
            if facts is not None:
                found[name] = _figures(facts)


def _figures(facts: Facts) -> dict[str, Facts]:
    """By strategy the figures that are shown."""
    return {
        row["strategy"]: {
            "share": row["accuracy"],
            "interval_95": row["interval_95"],
            "graded": row["graded"],
            "tokens": row["cost"].get("sampled_tokens", 0) / max(row["problems"], 1),
        }
        for row in facts["strategies"]
    }
