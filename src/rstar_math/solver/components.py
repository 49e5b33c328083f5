"""Tables that build the components of a strategy: policies, scorers and reviewers."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from rstar_math.config.loading import import_object
from rstar_math.config.sections import Config, SearchConfig
from rstar_math.errors import ConfigError
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
from rstar_math.protocols import (
    AnswerGrouper,
    Completer,
    Executor,
    Policy,
    Scorer,
    Verifier,
)
from rstar_math.search.expansion import SearchComponents
from rstar_math.search.review import Reviewer, discriminator_review, scorer_review
from rstar_math.search.strategies import Strategy


@dataclass(frozen=True, slots=True)
class Components:
    """The components of an open solver, from which those of each strategy are built."""

    config: Config
    policy: Policy
    greedy_policy: Policy
    """The policy at temperature 0."""
    executor: Executor
    group: AnswerGrouper
    scorer: Scorer | None = None
    model: Completer | None = None
    """The policy's model; None if the solver was given a policy instead."""
    discriminator: Completer | None = None
    """The discriminator's model; None if the solver was given a policy instead of a model."""
    example_scorer: Scorer | None = None
    """Values programs by the public tests of a code problem; used if there is no other scorer and
    `search.use_examples` is set."""

    def search_components(
        self, strategy: Strategy, search: SearchConfig, verifier: Verifier | None
    ) -> SearchComponents:
        """Return the components with which a strategy searches. Raises `ConfigError`."""
        spec = strategy.spec
        uses_examples = self._uses_examples(strategy, search)
        policy = _lookup(POLICIES, spec.policy, "policy")(self, strategy, search)
        scorer = self.example_scorer if uses_examples else self.scorer
        if spec.scorer == "none":
            scorer = None
        elif spec.scorer not in ("optional", "required"):
            model = self.require_model(strategy.kind)
            scorer = _lookup(SCORERS, spec.scorer, "scorer")(model, search)
        return SearchComponents(policy, self.executor, scorer, verifier)

    def search_config(self, strategy: Strategy, search: SearchConfig) -> SearchConfig:
        """Return the search options of a strategy.

        For rStar's actions, the depth and the number of candidates come from section `actions`.
        Where public tests value the programs, programs that pass more of them have more weight.
        """
        if self._uses_examples(strategy, search) and search.answer is None:
            return search.model_copy(update={"answer": "weighted"})
        actions = self.config.actions
        if not strategy.spec.uses_actions:
            return search
        depth = actions.depth or load_action_prompts(actions.prompt_set).depth
        return search.model_copy(update={"max_depth": depth, "candidates": actions.candidates})

    def _uses_examples(self, strategy: Strategy, search: SearchConfig) -> bool:
        """Return whether public tests value the programs of a search."""
        can = self.scorer is None and self.example_scorer is not None
        return can and search.use_examples and strategy.spec.scorer in ("optional", "required")

    def reviewer(self, strategy: Strategy, search: SearchConfig) -> Reviewer | None:
        """Return the reviewer of a strategy; None if it has none. Raises `ConfigError`."""
        name = strategy.spec.review
        if name is None:
            return None
        return _lookup(REVIEWERS, name, "review")(self, strategy, search)

    def require_model(self, kind: str, *, discriminator: bool = False) -> Completer:
        """Return the policy's or the discriminator's model, for a strategy with its own prompts.

        Raises `ConfigError` if the solver was given a policy instead of a model.
        """
        model = self.discriminator if discriminator else self.model
        if model is None:
            raise ConfigError(
                f"Strategy {kind} needs a model, but this Solver was given a policy; give it a "
                "model, or use another strategy."
            )
        return model


T = TypeVar("T")


def _lookup(table: Mapping[str, T], name: str, field: str) -> T:
    """Return an entry of a table. Raises `ConfigError` for an unknown name of a spec's `field`."""
    if name not in table:
        raise ConfigError(f"Unknown {field} {name!r} of a strategy; use {', '.join(table)}.")
    return table[name]


def _steps_policy(components: Components, strategy: Strategy, search: SearchConfig) -> Policy:
    return components.greedy_policy if strategy.is_greedy else components.policy


def _chain_policy(components: Components, strategy: Strategy, search: SearchConfig) -> Policy:
    model = components.require_model(strategy.kind, discriminator=strategy.spec.uses_discriminator)
    return ChainPolicy(
        model,
        components.config.actions,
        few_shot=strategy.spec.few_shot,
        temperature=0.0 if strategy.is_greedy else None,
        conversation=conversation_for(components.config.policy, prompting_of(model)),
    )


def _actions_policy(components: Components, strategy: Strategy, search: SearchConfig) -> Policy:
    depth = components.search_config(strategy, search).max_depth
    model = components.require_model(strategy.kind)
    return ActionPolicy(model, components.config.actions, group=components.group, max_depth=depth)


def _subquestions_policy(
    components: Components, strategy: Strategy, search: SearchConfig
) -> Policy:
    model = components.require_model(strategy.kind)
    return SubQuestionPolicy(model, components.config.policy, max_depth=search.max_depth)


POLICIES: dict[str, Callable[[Components, Strategy, SearchConfig], Policy]] = {
    "steps": _steps_policy,
    "chain": _chain_policy,
    "actions": _actions_policy,
    "subquestions": _subquestions_policy,
}
"""Builders of policies, by `StrategySpec.policy`."""


def _self_scorer(model: Completer, search: SearchConfig) -> Scorer:
    """Return a scorer with which the model judges its own steps."""
    return SelfEvaluator(model, check=search.self_check, seed=search.seed)


def _subquestion_scorer(model: Completer, search: SearchConfig) -> Scorer:
    return SubquestionScorer(model, seed=search.seed)


SCORERS: dict[str, Callable[[Completer, SearchConfig], Scorer]] = {
    "self": _self_scorer,
    "subquestions": _subquestion_scorer,
}
"""Builders of scorers that belong to a strategy, by `StrategySpec.scorer`."""


def _discriminator(components: Components, strategy: Strategy, search: SearchConfig) -> Reviewer:
    model = components.require_model(strategy.kind, discriminator=True)
    config = components.config
    conversation = conversation_for(config.policy, prompting_of(model))
    return discriminator_review(
        ChainDiscriminator(model, config.actions, config.mutual, conversation),
        solution_segments,
        group=components.group,
        config=config.mutual,
        seed=search.seed,
    )


def _verification(components: Components, strategy: Strategy, search: SearchConfig) -> Reviewer:
    model, prompts = components.require_model(strategy.kind), components.config.actions.prompt_set
    scorer = SolutionVerifierScorer(model, prompts, seed=search.seed)
    return scorer_review(scorer, group=components.group)


REVIEWERS: dict[str, Callable[[Components, Strategy, SearchConfig], Reviewer]] = {
    "discriminator": _discriminator,
    "verification": _verification,
}
"""Builders of reviewers, by `StrategySpec.review`."""

ScorerFactory = Callable[[Config, Completer | None], AbstractAsyncContextManager[Scorer | None]]
"""Opens a scorer that stays open as long as its solver. The model is None if the solver was given a
policy instead."""


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
"""Factories of scorers, by `search.scorer`."""


def scorer_factory(name: str) -> ScorerFactory:
    """Return the factory of a scorer: a key of `SCORER_FACTORIES`, or "module:factory".

    Raises `ConfigError` for an unknown name.
    """
    if name in SCORER_FACTORIES:
        return SCORER_FACTORIES[name]
    if ":" not in name:
        known = ", ".join(SCORER_FACTORIES)
        raise ConfigError(f"Unknown search.scorer {name!r}; use {known} or module:factory.")
    factory: ScorerFactory = import_object(name)
    return factory
