"""The table of strategies: every way to solve a problem that `--strategy` accepts.

Each entry of `STRATEGIES` is one strategy. Help texts and the documentation are generated from the
table. To add your own strategy, define a `StrategySpec` in any module and pass
`--strategy my_module:SPEC@8`.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rstar_math.config.loading import import_object
from rstar_math.config.sections import SearchConfig
from rstar_math.errors import ConfigError
from rstar_math.search.beam import beam, best_first
from rstar_math.search.expansion import SearchComponents
from rstar_math.search.mcts import RolloutCallback, grow
from rstar_math.search.particles import particle_filter
from rstar_math.search.sampling import sample_chains
from rstar_math.search.stopping import StopCondition
from rstar_math.search.tree import Tree


@dataclass(frozen=True, slots=True)
class SearchHooks:
    """Callbacks of a search: `on_rollout` reports progress, `stop_condition` may stop it early."""

    on_rollout: RolloutCallback | None = None
    stop_condition: StopCondition | None = None


SearchFunction = Callable[
    [Tree, int | None, SearchComponents, SearchConfig, SearchHooks], Awaitable[None]
]
"""Searches once and adds paths to a tree. The number is the size of the search; None (chains
only) means as many chains as `config.token_budget` allows."""


@dataclass(frozen=True, slots=True)
class StrategySpec:
    """The definition of one strategy."""

    summary: str
    """One line for the help text; N stands for the size."""
    search: SearchFunction
    """One search of the strategy."""
    default_size: int | None = None
    """Size if no number follows @. None means `search.rollouts`, or one greedy chain."""
    sized: bool = True
    """Whether a size (@N) is allowed."""
    is_chain: bool = False
    """Whether the strategy samples independent whole solutions. It then accepts no xM, because a
    larger size does the same, and a token budget sets the number of chains."""
    size_is_runs: bool = False
    """Whether the size is a number of independent runs of size 1."""
    policy: str = "steps"
    """Policy that proposes steps: a key of `solver.components.POLICIES`."""
    few_shot: bool = True
    """Whether the prompts of policy "chain" contain worked examples."""
    scorer: Literal["none", "optional", "required"] | str = "optional"
    """Use of the configured scorer, or the name of a scorer in `solver.components.SCORERS`."""
    answer_rule: str = "majority"
    """Answer rule without a scorer: a key of `voting.ANSWER_RULES`, or "top-of-runs"."""
    scored_rule: str | None = None
    """Answer rule with a scorer; None means `answer_rule`."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Options of `SearchConfig` that the strategy's paper prescribes."""
    confidence: float | None = None
    """Value of `search.confidence` if the configuration has none; it enables the Beta rule."""
    review: str | None = None
    """Review that chooses the answer: a key of `solver.components.REVIEWERS`, or None."""
    uses_discriminator: bool = False
    """Whether the strategy needs the discriminator's model."""

    @property
    def uses_prompt_set(self) -> bool:
        """Whether the strategy reasons in words, with the prompts of `actions.prompt_set`."""
        return self.policy == "chain" or self.uses_actions

    @property
    def uses_actions(self) -> bool:
        """Whether the steps are rStar's actions."""
        return self.policy == "actions"


async def _sample(
    tree: Tree, size: int | None, parts: SearchComponents, config: SearchConfig, hooks: SearchHooks
) -> None:
    await sample_chains(tree, size, parts=parts, config=config, stop_condition=hooks.stop_condition)


async def _beam(
    tree: Tree, size: int | None, parts: SearchComponents, config: SearchConfig, hooks: SearchHooks
) -> None:
    await beam(tree, size or 1, parts=parts, config=config)


async def _best_first(
    tree: Tree, size: int | None, parts: SearchComponents, config: SearchConfig, hooks: SearchHooks
) -> None:
    await best_first(tree, size or 1, parts=parts, config=config)


async def _particles(
    tree: Tree, size: int | None, parts: SearchComponents, config: SearchConfig, hooks: SearchHooks
) -> None:
    await particle_filter(tree, size or 1, parts=parts, config=config)


async def _mcts(
    tree: Tree, size: int | None, parts: SearchComponents, config: SearchConfig, hooks: SearchHooks
) -> None:
    await grow(
        tree,
        policy=parts.policy,
        executor=parts.executor,
        scorer=parts.scorer,
        verifier=parts.verifier,
        config=config if size is None else config.model_copy(update={"rollouts": size}),
        on_rollout=hooks.on_rollout,
        stop_condition=hooks.stop_condition,
    )


_RSTAR: dict[str, Any] = {
    "search": _mcts,
    "default_size": 32,
    "policy": "actions",
    "scorer": "none",
    "answer_rule": "paths",
    "overrides": {"selection": "uct", "tie_break": "random", "backup": "rollout"},
}
"""Fields shared by the strategies of rStar (arXiv:2408.06195, section 3.2; 32 rollouts)."""

STRATEGIES: dict[str, StrategySpec] = {
    "greedy": StrategySpec(
        "one program at temperature 0", _sample, sized=False, is_chain=True, scorer="none"
    ),
    "sc": StrategySpec(
        "majority over N programs (self-consistency)",
        _sample,
        default_size=8,
        is_chain=True,
        scorer="none",
    ),
    "asc": StrategySpec(
        "as sc, but it stops when the majority is 95 % sure (adaptive self-consistency; paper: 40)",
        _sample,
        default_size=40,
        is_chain=True,
        scorer="none",
        confidence=0.95,
        overrides={"candidates": 1},
    ),
    "bon": StrategySpec(
        "the highest-scored of N programs (best-of-N)",
        _sample,
        default_size=8,
        is_chain=True,
        scorer="required",
        scored_rule="best",
    ),
    "beam": StrategySpec(
        "step-level beam search of width N (rStar-Math's code: 8)",
        _beam,
        default_size=8,
        scorer="required",
        scored_rule="best",
    ),
    "dvts": StrategySpec(
        "N beam searches of width 1, weighted vote (diverse verifier tree search)",
        _beam,
        default_size=8,
        size_is_runs=True,
        scorer="required",
        scored_rule="weighted",
    ),
    "tot": StrategySpec(
        "Tree of Thoughts with beam width N; the model judges its own steps (paper: 5)",
        _beam,
        default_size=5,
        scorer="self",
        scored_rule="best",
    ),
    "rap": StrategySpec(
        "MCTS over sub-questions with N rollouts (RAP; paper: 10)",
        _mcts,
        default_size=10,
        policy="subquestions",
        scorer="subquestions",
        scored_rule="weighted",
        overrides={"backup": "all"},
    ),
    "value": StrategySpec(
        "best-first search until N answers are found",
        _best_first,
        default_size=1,
        scorer="required",
        scored_rule="best",
    ),
    "particles": StrategySpec(
        "particle filtering with N particles (paper: 4 to 128)",
        _particles,
        default_size=8,
        scorer="required",
        scored_rule="best",
    ),
    "mcts": StrategySpec(
        "Monte Carlo tree search with N rollouts (rStar-Math)", _mcts, scored_rule="top-of-runs"
    ),
    "zero": StrategySpec(
        "one zero-shot chain of thought at temperature 0",
        _sample,
        sized=False,
        is_chain=True,
        policy="chain",
        few_shot=False,
        scorer="none",
    ),
    "cot": StrategySpec(
        "one few-shot chain of thought at temperature 0; with a size, majority over N",
        _sample,
        is_chain=True,
        policy="chain",
        scorer="none",
    ),
    "gen": StrategySpec("MCTS over rStar's five actions, N rollouts, majority vote", **_RSTAR),
    "rstar": StrategySpec(
        "rStar: as gen, but the discriminator checks the paths",
        **_RSTAR,
        review="discriminator",
        uses_discriminator=True,
    ),
    "verify": StrategySpec(
        "rStar: as gen, but the model verifies its own paths",
        **_RSTAR,
        review="verification",
    ),
    "peer": StrategySpec(
        "as cot, but with the discriminator's model",
        _sample,
        is_chain=True,
        policy="chain",
        scorer="none",
        uses_discriminator=True,
    ),
}
"""The strategies of this package, by name."""
_NAME = re.compile(r"([a-z][a-z0-9_]*?|[\w.]+:\w+)(?:@(\d{1,6}|budget))?(?:x(\d{1,4}))?\Z")
"""Name, size and runs. "x4" at the end is always a number of runs, so no name ends like that."""


def spec_of(name: str) -> StrategySpec:
    """Return the spec of a strategy: a key of `STRATEGIES`, or "module:SPEC".

    Raises `ConfigError` for an unknown name, or if the object is not a `StrategySpec`.
    """
    if name in STRATEGIES:
        return STRATEGIES[name]
    if ":" not in name:
        raise ConfigError(f"Unknown strategy {name!r}; use one of {known_strategies()}.")
    spec = import_object(name)
    if not isinstance(spec, StrategySpec):
        raise ConfigError(f"{name} is not a StrategySpec; give the name of a StrategySpec object.")
    return spec


def known_strategies() -> str:
    """Return the list of strategies for help texts and error messages."""
    names = [
        name if spec.default_size is None else f"{name}@{spec.default_size}"
        for name, spec in STRATEGIES.items()
    ]
    return f"{', '.join(names)}, or module:SPEC (@N sets the size; mcts@16x4 is 4 runs)"


@dataclass(frozen=True, slots=True)
class Strategy:
    """A strategy with its size and number of runs."""

    kind: str
    """A key of `STRATEGIES`, or "module:SPEC"."""
    size: int | None = None
    """The number after @: the size of one run, or with `StrategySpec.size_is_runs` the number of
    runs. None means `search.rollouts`, or one greedy chain."""
    runs: int | None = None
    """Number of independent runs; None means one, or as many as a token budget allows."""
    fills_budget: bool = False
    """Whether the token budget alone sets the number of chains ("sc@budget")."""

    @property
    def name(self) -> str:
        """The text form that `parse_strategy` accepts, for example "mcts@16x4"."""
        size = "" if self.size is None else f"@{self.size}"
        size = "@budget" if self.fills_budget else size
        runs = "" if self.runs is None else f"x{self.runs}"
        return f"{self.kind}{size}{runs}"

    @property
    def spec(self) -> StrategySpec:
        """The strategy's spec. Raises `ConfigError`."""
        return spec_of(self.kind)

    @property
    def is_greedy(self) -> bool:
        """Whether the strategy is one chain at temperature 0."""
        return self.spec.is_chain and self.size is None and not self.fills_budget

    def within_budget(self) -> "Strategy":
        """Return the strategy as a token budget runs it: of chains, it samples as many as it
        allows, whatever the size; its name then says so."""
        if not self.spec.is_chain or self.is_greedy:
            return self
        return Strategy(self.kind, fills_budget=True)

    @property
    def run_size(self) -> int | None:
        """Size of one run; None means `search.rollouts`, or one greedy chain."""
        return 1 if self.spec.size_is_runs else self.size

    def max_runs(self, *, has_budget: bool) -> int | None:
        """Return the number of runs; None means as many as the token budget allows.

        If `runs` is not set, it is 1, or with a token budget unlimited.
        """
        if self.runs is None and has_budget:
            return None
        runs = self.runs or 1
        return runs * (self.size or 1) if self.spec.size_is_runs else runs


def missing_scorer_error(kind: str) -> ConfigError:
    """Return the error for a strategy that needs a scorer but has none."""
    return ConfigError(
        f"Strategy {kind} needs a scorer; set search.scorer (for example --set search.scorer=self) "
        "or pass a scorer to Solver."
    )


def answer_rule_name(strategy: Strategy, config: SearchConfig, *, scored: bool) -> str:
    """Return the name of the answer rule: `config.answer` if set, else the strategy's rule."""
    spec = strategy.spec
    if config.answer is not None:
        return config.answer
    if scored and spec.scored_rule is not None:
        return spec.scored_rule
    return spec.answer_rule


def parse_strategies(text: str) -> list[Strategy]:
    """Parse a comma-separated list of strategies.

    Raises `ConfigError` for a strategy that is unknown or listed twice.
    """
    strategies: list[Strategy] = []
    for name in (part.strip() for part in text.split(",")):
        strategy = parse_strategy(name)
        if strategy in strategies:
            raise ConfigError(f"Strategy {strategy.name} is listed twice; list it once.")
        strategies.append(strategy)
    return strategies


def parse_strategy(text: str) -> Strategy:
    """Parse one strategy, for example "mcts@16x4". Raises `ConfigError`."""
    match = _NAME.match(text)
    if match is None or "0" in (match[2], match[3]):
        raise ConfigError(f"Unknown strategy {text!r}; use one of {known_strategies()}.")
    kind, size, runs = match.groups()
    spec = spec_of(kind)
    if size and not spec.sized:
        raise ConfigError(f"Strategy {kind} takes no size; use {kind} instead of {text!r}.")
    if runs and spec.is_chain:
        raise ConfigError(
            f"Strategy {kind} takes no runs; use a larger size, such as {kind}@8, not {text!r}."
        )
    if size == "budget":
        if not (spec.is_chain and spec.sized):
            raise ConfigError(f"Strategy {kind} does not sample chains; give a size, not {text!r}.")
        return Strategy(kind, fills_budget=True)
    return Strategy(kind, int(size) if size else spec.default_size, int(runs) if runs else None)
