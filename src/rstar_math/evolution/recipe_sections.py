"""The sections of a recipe that no other command has: problems, rounds, gates, measurements."""

from typing import Literal

from pydantic import Field

from rstar_math.config import ModelConfig
from rstar_math.config.sections import Section
from rstar_math.problems.settings import SynthesisConfig


class ProblemsSection(Section):
    """Which problems are searched and trained on."""

    train: tuple[str, ...] = Field(min_length=1)
    """Sources (a JSONL file, hf:NAME:CONFIG@SPLIT, gym:NAME?size=N) of problems with answers.
    Solutions annotated as in GSM8K are kept for a round with data = "annotated"."""
    held_out: int = Field(200, ge=1)
    """Problems kept back, drawn by their ids: gates are decided on them."""
    limit: int | None = Field(None, ge=2)
    """Most problems, drawn by their ids; by default all."""
    templates: bool = False
    """Whether problems that are an evaluation's with other numbers are left out too."""
    seed: int = 0
    """Seed of the drawing."""


class RoundSection(Section):
    """One round: search, curate, train, evaluate (rStar-Math, arXiv:2501.04519, section 3.4)."""

    data: Literal["search", "annotated"] = "search"
    """Where its solutions come from: a search, or (a first round without a strong model) annotated
    solutions turned into code steps."""
    model: ModelConfig | None = None
    """A model to search with in the place of the round's policy, as the paper's first round has
    one, asked with policy.prompt."""
    problems: int | None = Field(None, ge=1)
    """Most problems searched, drawn anew each round; by default all."""
    steps: int | None = Field(None, ge=1)
    """Search only problems that have an annotated solution of at most so many steps, the one that
    states the answer included: a policy that solves no longer ones learns nothing from searching
    them. New problems (`synthesis`) have no such solution. By default all are searched."""
    sources: tuple[str, ...] = ()
    """Search only problems of sources with one of these in their names, as "gsm8k" is in
    "openai/gsm8k:main@train". By default all are searched."""
    strategy: Literal["mcts", "sc"] = "mcts"
    """How problems are searched: by a tree search (paper), or by `rollouts` independent solutions
    that share the nodes of their equal first steps. Samples cost a fraction of a tree search and
    suit a first round; their Q values rest on fewer paths."""
    rollouts: int = Field(16, ge=1)
    """Rollouts of a problem (paper: 16; first round 8)."""
    runs: int = Field(1, ge=1)
    """Tree expansions of a problem with different seeds (paper: 2 in its last round)."""
    candidates: int = Field(8, ge=1)
    """Next steps sampled at a node (paper: 8; first round 5, last round 16)."""
    more: tuple[int, ...] = ()
    """Further rollouts, with new seeds, of problems that no path solved: one pass for each number
    (paper: 64, then 128 in its last round)."""
    scorer: bool = True
    """Whether the search goes by the preference model, where there is one (paper: from round 3)."""
    policy: bool = True
    """Whether a policy is trained at the end of the round."""
    ppm: bool = True
    """Whether a preference model is trained at the end of the round."""


class SynthesisSection(SynthesisConfig):
    """New problems that a model writes from those to learn from, before the first round; kept where
    its independent solutions agree (rStar-Math, arXiv:2501.04519: at least 3 of 10). Off unless
    `requests` says how many."""

    model: ModelConfig | None = None
    """Who writes and solves them, asked with policy.prompt; by default the model of the first
    round."""


class GateSection(Section):
    """When a new model takes the place of the old one: if it is better on held-out problems."""

    samples: int = Field(16, ge=2)
    """Solutions of each held-out problem that preference models choose among."""
    sure: float = Field(0.5, ge=0.5, lt=1)
    """How sure it must be that the new one is better: the share of paired bootstrap samples in
    which it is. 0.5 takes what looks better, 0.95 only what is shown to be."""


class SetSection(Section):
    """A set of problems to measure on."""

    source: str
    """A name that `rstar benchmarks` lists, a JSONL file, hf:NAME or gym:NAME."""
    size: int | None = Field(None, ge=1)
    """Problems drawn from it, by their ids; by default all."""
    system: bool = True
    """Whether the system is measured on it too, or the policy alone."""


class EvaluationSection(Section):
    """What is measured after each round. Training problems like these are left out."""

    sets: tuple[SetSection, ...] = ()
    """Sets to measure on, none of them trained on."""
    policy: tuple[str, ...] = ("greedy",)
    """Strategies that measure the policy alone, each round."""
    system: tuple[str, ...] = ("sc@16", "mcts")
    """Strategies that measure policy and preference model together."""
    system_rounds: Literal["every", "last"] = "every"
    """Rounds after which the system is measured."""
    rollouts: int = Field(16, ge=1)
    """Rollouts of a measured search (paper's inference setting: one tree a trajectory)."""
    candidates: int = Field(32, ge=1)
    """Next steps sampled at a node of a measured search (paper: 32)."""
    tokens: int | None = Field(None, ge=1)
    """Sampled tokens a problem that every system strategy is given, for a comparison at equal cost;
    by default each its own size."""
    seed: int = 1
    """Seed of the measured searches."""
