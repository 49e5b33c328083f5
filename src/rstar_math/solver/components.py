"""The tables from which a strategy's components are built: policies, scorers, reviewers."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from rstar_math.config.loading import import_object
from rstar_math.config.sections import Config, GradingConfig, SearchConfig
from rstar_math.errors import ConfigError
from rstar_math.grading.grader import Grader
from rstar_math.models.prompting import conversation_for, prompting_of
from rstar_math.policies.actions import ActionPolicy
from rstar_math.policies.completions import ChainDiscriminator, ChainPolicy, SubQuestionPolicy
from rstar_math.policies.self_evaluation import (
    SelfEvaluator,
    SolutionVerifierScorer,
    SubquestionScorer,
)
from rstar_math.prompts.actions import solution_segments
from rstar_math.prompts.families import load_action_prompts
from rstar_math.protocols import AnswerGrouper, Completer, Executor, Policy, Scorer, Verifier
from rstar_math.search.expansion import SearchComponents
from rstar_math.search.review import Reviewer, discriminator_review, scorer_review
from rstar_math.search.strategies import Strategy


@dataclass(frozen=True, slots=True)
class Components:
    """An open solver's parts, put together for one strategy at a time."""

    config: Config
    policy: Policy
    greedy: Policy
    """The policy at temperature 0."""
    executor: Executor
    group: AnswerGrouper
    scorer: Scorer | None = None
    model: Completer | None = None
    """None where a policy was given in its place."""
    second: Completer | None = None
    """The discriminator's model."""

    def parts(
        self, strategy: Strategy, search: SearchConfig, verifier: Verifier | None
    ) -> SearchComponents:
        """What a strategy searches with. Raises `ConfigError`."""
        spec = strategy.spec
        policy = _entry(POLICIES, spec.policy, "policy")(self, strategy, search)
        scorer = self.scorer
        if spec.scorer == "none":
            scorer = None
        elif spec.scorer not in ("optional", "required"):
            model = self.require_model(strategy.kind)
            scorer = _entry(SCORERS, spec.scorer, "scorer")(model, search)
        return SearchComponents(policy, self.executor, scorer, verifier)

    def search(self, strategy: Strategy, search: SearchConfig) -> SearchConfig:
        """The options that a strategy searches with: rStar's actions have a depth and a number of
        candidates of their own."""
        actions = self.config.actions
        if strategy.spec.policy != "actions":
            return search
        depth = actions.depth or load_action_prompts(actions.prompt_set).depth
        own = {"max_depth": depth, "candidates": actions.candidates}
        return search.model_copy(update=own)

    def review(self, strategy: Strategy, search: SearchConfig) -> Reviewer | None:
        """The second look at what a strategy found, if it takes one."""
        name = strategy.spec.review
        if name is None:
            return None
        return _entry(REVIEWERS, name, "review")(self, strategy, search)

    def require_model(self, kind: str, *, second: bool = False) -> Completer:
        """The model itself, for a strategy that has more to ask it than for steps."""
        model = self.second if second else self.model
        if model is None:
            raise ConfigError(
                f"{kind} asks the model in words of its own, and this Solver was given a policy in "
                "its place; leave the policy out, or take another strategy."
            )
        return model


T = TypeVar("T")


def _entry(table: Mapping[str, T], name: str, what: str) -> T:
    """An entry of a table. Raises `ConfigError` for a name that it does not have."""
    if name not in table:
        raise ConfigError(f"Unknown {what} {name!r} of a strategy; use {', '.join(table)}.")
    return table[name]


def _steps_policy(parts: Components, strategy: Strategy, search: SearchConfig) -> Policy:
    return parts.greedy if strategy.is_greedy else parts.policy


def _chain_policy(parts: Components, strategy: Strategy, search: SearchConfig) -> Policy:
    model = parts.require_model(strategy.kind, second=strategy.spec.uses_discriminator)
    return ChainPolicy(
        model,
        parts.config.actions,
        few_shot=strategy.spec.sized,
        temperature=0.0 if strategy.is_greedy else None,
        conversation=conversation_for(parts.config.policy, prompting_of(model)),
    )


def _actions_policy(parts: Components, strategy: Strategy, search: SearchConfig) -> Policy:
    depth = parts.search(strategy, search).max_depth
    model = parts.require_model(strategy.kind)
    return ActionPolicy(model, parts.config.actions, group=parts.group, depth=depth)


def _subquestions_policy(parts: Components, strategy: Strategy, search: SearchConfig) -> Policy:
    model = parts.require_model(strategy.kind)
    return SubQuestionPolicy(model, parts.config.policy, max_depth=search.max_depth)


POLICIES: dict[str, Callable[[Components, Strategy, SearchConfig], Policy]] = {
    "steps": _steps_policy,
    "chain": _chain_policy,
    "actions": _actions_policy,
    "subquestions": _subquestions_policy,
}
"""What proposes steps, by the name that `StrategySpec.policy` gives it."""


def _self_scorer(model: Completer, search: SearchConfig) -> Scorer:
    """The model as the judge of its own steps."""
    return SelfEvaluator(model, check=search.self_check, seed=search.seed)


def _subquestion_scorer(model: Completer, search: SearchConfig) -> Scorer:
    return SubquestionScorer(model, seed=search.seed)


SCORERS: dict[str, Callable[[Completer, SearchConfig], Scorer]] = {
    "self": _self_scorer,
    "subquestions": _subquestion_scorer,
}
"""Scorers that a strategy brings itself, by the name that `StrategySpec.scorer` gives them."""


def _discriminator(parts: Components, strategy: Strategy, search: SearchConfig) -> Reviewer:
    second = parts.require_model(strategy.kind, second=True)
    conversation = conversation_for(parts.config.policy, prompting_of(second))
    mutual = parts.config.mutual
    peer = ChainDiscriminator(second, parts.config.actions, mutual, conversation)
    return discriminator_review(
        peer, solution_segments, group=parts.group, config=mutual, seed=search.seed
    )


def _verification(parts: Components, strategy: Strategy, search: SearchConfig) -> Reviewer:
    model, prompts = parts.require_model(strategy.kind), parts.config.actions.prompt_set
    verifier = SolutionVerifierScorer(model, prompts, seed=search.seed)
    return scorer_review(verifier, group=parts.group)


REVIEWERS: dict[str, Callable[[Components, Strategy, SearchConfig], Reviewer]] = {
    "discriminator": _discriminator,
    "verification": _verification,
}
"""Second looks, by the name that `StrategySpec.review` gives them."""

ScorerFactory = Callable[[Config, Completer | None], AbstractAsyncContextManager[Scorer | None]]
"""Opens a scorer for the time of a solver. The model is None where a policy was given instead."""


@asynccontextmanager
async def _no_scorer(config: Config, model: Completer | None) -> AsyncIterator[Scorer | None]:
    yield None


@asynccontextmanager
async def _self_evaluation(config: Config, model: Completer | None) -> AsyncIterator[Scorer | None]:
    yield None if model is None else _self_scorer(model, config.search)


@asynccontextmanager
async def _ppm(config: Config, model: Completer | None) -> AsyncIterator[Scorer | None]:
    from rstar_math.ppm.remote import load_scorer

    scorer = await load_scorer(config)
    try:
        yield scorer
    finally:
        await scorer.aclose()


SCORER_FACTORIES: dict[str, ScorerFactory] = {
    "none": _no_scorer,
    "self": _self_evaluation,
    "ppm": _ppm,
}
"""Scorers by the name that `search.scorer` gives them."""


def scorer_factory(name: str) -> ScorerFactory:
    """The factory of a scorer: a name of `SCORER_FACTORIES`, or "module:factory". Raises
    `ConfigError`."""
    if name in SCORER_FACTORIES:
        return SCORER_FACTORIES[name]
    if ":" not in name:
        known = ", ".join(SCORER_FACTORIES)
        raise ConfigError(f"Unknown search.scorer {name!r}; use {known} or module:factory.")
    factory: ScorerFactory = import_object(name)
    return factory


def grader(config: GradingConfig) -> Grader:
    """Who decides, for stages that have answers and no model, whether they are right and equal."""
    return Grader(config)
