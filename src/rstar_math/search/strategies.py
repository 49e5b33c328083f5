"""The table of strategies: every way to solve a problem that `--strategy` takes.

One entry of `STRATEGIES` is one strategy; help texts and the documentation are made from it. For a
strategy of your own, put a `StrategySpec` into any module and pass `--strategy my_module:SPEC@8`.
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
from rstar_math.search.sampling import sample_chains
from rstar_math.search.tree import Tree
from rstar_math.search.voting import StopCondition


@dataclass(frozen=True, slots=True)
class RunHooks:
    """What a run reports to, and what may stop it."""

    on_rollout: RolloutCallback | None = None
    stop: StopCondition | None = None


RunFunction = Callable[
    [Tree, int | None, SearchComponents, SearchConfig, RunHooks], Awaitable[None]
]
"""One run: adds paths to a tree. The number is the strategy's size; None, for chains only, is as
many as `config.token_budget` allows."""


@dataclass(frozen=True, slots=True)
class StrategySpec:
    """One strategy."""

    summary: str
    """One line for the help text; N stands for the size."""
    run: RunFunction
    default_size: int | None = None
    """The number after @ where none is given; None for `search.rollouts`, or for one greedy
    chain."""
    sized: bool = True
    """Whether a number may follow @."""
    is_chain: bool = False
    """Whether it samples whole solutions side by side. Its sizes add up, so it takes no xM, and a
    token budget sets the number of chains."""
    size_is_runs: bool = False
    """Whether the size is a number of independent runs of size 1."""
    policy: str = "steps"
    """What proposes steps: a key of `solver.components.POLICIES`."""
    scorer: Literal["none", "optional", "required"] | str = "optional"
    """Whether the scorer of the configuration is used, or a key of `solver.components.SCORERS`."""
    answer_rule: str = "majority"
    """How the answer is chosen without a scorer: a key of `voting.RULES`, or "top-of-runs"."""
    scored_rule: str | None = None
    """The same with a scorer; by default `answer_rule`."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Options of `SearchConfig` that its paper sets."""
    review: str | None = None
    """What checks the finished paths and chooses: a key of `solver.components.REVIEWERS`."""
    uses_discriminator: bool = False
    """Whether the second model is needed."""

    @property
    def uses_prompt_set(self) -> bool:
        """Whether it reasons in words, with the prompts of `actions.prompt_set`."""
        return self.policy in ("chain", "actions")


async def _sample(
    tree: Tree, n: int | None, parts: SearchComponents, config: SearchConfig, hooks: RunHooks
) -> None:
    await sample_chains(tree, n, parts=parts, config=config, enough=hooks.stop)


async def _beam(
    tree: Tree, n: int | None, parts: SearchComponents, config: SearchConfig, hooks: RunHooks
) -> None:
    await beam(tree, n or 1, parts=parts, config=config)


async def _best_first(
    tree: Tree, n: int | None, parts: SearchComponents, config: SearchConfig, hooks: RunHooks
) -> None:
    await best_first(tree, n or 1, parts=parts, config=config)


async def _mcts(
    tree: Tree, n: int | None, parts: SearchComponents, config: SearchConfig, hooks: RunHooks
) -> None:
    await grow(
        tree,
        policy=parts.policy,
        executor=parts.executor,
        scorer=parts.scorer,
        verifier=parts.verifier,
        config=config if n is None else config.model_copy(update={"rollouts": n}),
        on_rollout=hooks.on_rollout,
        enough=hooks.stop,
    )


_RSTAR: dict[str, Any] = {
    "run": _mcts,
    "default_size": 32,
    "policy": "actions",
    "scorer": "none",
    "answer_rule": "paths",
    "overrides": {"selection": "uct", "tie_break": "random", "backup": "rollout"},
}
"""rStar's search (arXiv:2408.06195, section 3.2); 32 rollouts are the paper's."""

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
    "bon": StrategySpec(
        "the program with the highest score of N (best-of-N)",
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
        "N subtrees that each follow their best step (diverse verifier tree search)",
        _beam,
        default_size=8,
        size_is_runs=True,
        scorer="required",
        scored_rule="weighted",
    ),
    "tot": StrategySpec(
        "Tree of Thoughts with a beam of N; the model values its own steps (paper: 5)",
        _beam,
        default_size=5,
        scorer="self",
        scored_rule="best",
    ),
    "rap": StrategySpec(
        "sub-questions in a tree of N rollouts (RAP; paper: 10)",
        _mcts,
        default_size=10,
        policy="subquestions",
        scorer="subquestions",
        scored_rule="weighted",
        overrides={"backup": "all"},
    ),
    "value": StrategySpec(
        "best-first search until N answers",
        _best_first,
        default_size=1,
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
        scorer="none",
    ),
    "cot": StrategySpec(
        "one few-shot chain of thought at temperature 0; with a size, majority over N",
        _sample,
        is_chain=True,
        policy="chain",
        scorer="none",
    ),
    "gen": StrategySpec("rStar's five actions in a tree of N rollouts, majority vote", **_RSTAR),
    "rstar": StrategySpec(
        "rStar: the same, and the discriminator checks the paths",
        **_RSTAR,
        review="discriminator",
        uses_discriminator=True,
    ),
    "verify": StrategySpec(
        "rStar with the model's own verification in place of the discriminator",
        **_RSTAR,
        review="verification",
    ),
    "peer": StrategySpec(
        "what the discriminator's model answers by itself, as cot",
        _sample,
        is_chain=True,
        policy="chain",
        scorer="none",
        uses_discriminator=True,
    ),
}
"""Every strategy of this package by its name."""
_NAME = re.compile(r"([a-z]+|[\w.]+:\w+)(?:@(\d{1,6}))?(?:x(\d{1,4}))?\Z")


def spec_of(name: str) -> StrategySpec:
    """The entry of a strategy: a name of `STRATEGIES`, or "module:SPEC". Raises `ConfigError`."""
    if name in STRATEGIES:
        return STRATEGIES[name]
    if ":" not in name:
        raise ConfigError(f"Unknown strategy {name!r}; use one of {known_strategies()}.")
    spec = import_object(name)
    if not isinstance(spec, StrategySpec):
        raise ConfigError(f"{name} is not a StrategySpec; name an object of that class.")
    return spec


def known_strategies() -> str:
    """The strategies as help and errors list them."""
    shown = [
        name if spec.default_size is None else f"{name}@{spec.default_size}"
        for name, spec in STRATEGIES.items()
    ]
    return f"{', '.join(shown)}, or module:SPEC (@N sets the size; mcts@16x4 is 4 runs)"


@dataclass(frozen=True, slots=True)
class Strategy:
    """A strategy with its size."""

    kind: str
    """A name of `STRATEGIES`, or "module:SPEC"."""
    n: int | None = None
    """Its size; None for `search.rollouts`, or for one greedy chain."""
    runs: int | None = None
    """Independent runs under different seeds; None for one, or as many as a token budget allows."""

    @property
    def name(self) -> str:
        """The text that `parse_strategies` reads this from."""
        size = "" if self.n is None else f"@{self.n}"
        return f"{self.kind}{size}" + ("" if self.runs is None else f"x{self.runs}")

    @property
    def spec(self) -> StrategySpec:
        """Its entry. Raises `ConfigError`."""
        return spec_of(self.kind)

    @property
    def is_greedy(self) -> bool:
        """Whether it is one chain at temperature 0."""
        return self.spec.is_chain and self.n is None

    @property
    def run_size(self) -> int | None:
        """The size of one run."""
        return 1 if self.spec.size_is_runs else self.n

    def max_runs(self, *, unlimited: bool) -> int | None:
        """Runs to make: `runs`, or where none are given one, or any number if `unlimited`."""
        if self.spec.size_is_runs and (self.runs or not unlimited):
            return (self.n or 1) * (self.runs or 1)
        return self.runs if self.runs is not None or unlimited else 1


def missing_scorer_error(kind: str) -> ConfigError:
    """The error for a strategy that needs a scorer where there is none."""
    return ConfigError(
        f"Strategy {kind} needs a scorer; set search.scorer (for example --set search.scorer=self) "
        "or give Solver a scorer."
    )


def answer_rule(strategy: Strategy, config: SearchConfig, *, scored: bool) -> str:
    """The rule that `config.answer` names, or the one of the strategy."""
    spec = strategy.spec
    if config.answer is not None:
        return config.answer
    return spec.scored_rule or spec.answer_rule if scored else spec.answer_rule


def parse_strategies(text: str) -> list[Strategy]:
    """The strategies of a comma-separated list. Raises `ConfigError` for one that is unknown or
    listed twice."""
    found: list[Strategy] = []
    for spec in (part.strip() for part in text.split(",")):
        strategy = _parsed(spec)
        if strategy in found:
            raise ConfigError(f"The strategy {strategy.name} is listed twice; once is enough.")
        found.append(strategy)
    return found


def _parsed(text: str) -> Strategy:
    """One strategy from its name."""
    match = _NAME.match(text)
    if match is None or "0" in (match[2], match[3]):
        raise ConfigError(f"Unknown strategy {text!r}; use one of {known_strategies()}.")
    kind, size, runs = match.groups()
    spec = spec_of(kind)
    if size and not spec.sized:
        raise ConfigError(f"{kind} takes no size; use {kind} instead of {text!r}.")
    if runs and spec.is_chain:
        raise ConfigError(f"{kind} takes no runs; raise its size instead: {kind}@8, not {text!r}.")
    n = int(size) if size else spec.default_size
    return Strategy(kind, n, int(runs) if runs else None)
