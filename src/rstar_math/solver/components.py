"""Tables that build the components of a strategy: policies, scorers and reviewers."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

from rstar_math.config.loading import import_object
from rstar_math.config.sections import Config, SearchConfig
from rstar_math.errors import ConfigError, ModelError
from rstar_math.models.prompting import conversation_for, prompting_of
from rstar_math.policies.actions import ActionPolicy
from rstar_math.policies.completions import ChainDiscriminator, ChainPolicy, SubQuestionPolicy
from rstar_math.policies.judging import JudgeScorer, PairwiseJudge
from rstar_math.policies.self_evaluation import (
    SelfEvaluator,
    SolutionVerifierScorer,
    SubquestionScorer,
)
from rstar_math.prompts.actions import solution_segments
from rstar_math.prompts.families import load_action_prompts
from rstar_math.protocols import AnswerGrouper, Completer, Executor, Policy, Scorer, Verifier
from rstar_math.runs.journal import Journal
from rstar_math.runs.recording import (
    RecordedCompleter,
    RecordedExecutor,
    RecordedPairJudge,
    RecordedScorer,
    record_policy,
)
from rstar_math.search.confidence import ConfidenceScorer
from rstar_math.search.expansion import SearchComponents
from rstar_math.search.review import Reviewer, discriminator_review, scorer_review
from rstar_math.search.strategies import Strategy
from rstar_math.search.tournament import PairJudge, tournament_review


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
    recorders: Mapping[str, Scorer] = field(default_factory=dict)
    """Further scorers by name, whose values are only stored."""
    pair_judge: PairJudge | None = None
    """The judge of pairs, which chooses answers instead of a scorer."""
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
        elif self.pair_judge is not None and spec.scorer == "required" and not spec.is_chain:
            raise ConfigError(
                f"Strategy {strategy.kind} needs a value of each step, but a pairwise judge only "
                "compares whole solutions; set judge.mode=pointwise, or use bon or mcts."
            )
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
            if self.pair_judge is None or strategy.spec.scorer not in ("optional", "required"):
                return None
            return tournament_review(self.pair_judge, group=self.group)
        return _lookup(REVIEWERS, name, "review")(self, strategy, search)

    def recorded(self, journal: Journal) -> "Components":
        """Return the components of one search that records all answers in a journal."""

        def record(model: Completer | None) -> Completer | None:
            return None if model is None else RecordedCompleter(model, journal)

        return replace(
            self,
            policy=record_policy(self.policy, journal),
            greedy_policy=record_policy(self.greedy_policy, journal),
            executor=RecordedExecutor(self.executor, journal),
            scorer=None if self.scorer is None else RecordedScorer(self.scorer, journal),
            recorders={
                name: RecordedScorer(scorer, journal, name)
                for name, scorer in self.recorders.items()
            },
            pair_judge=self.pair_judge and RecordedPairJudge(self.pair_judge, journal),
            model=record(self.model),
            discriminator=record(self.discriminator),
        )

    def recorders_of(self, strategy: Strategy) -> Mapping[str, Scorer]:
        """Return the scorers that record their values after a search of a strategy."""
        uses_scorer = strategy.spec.scorer in ("optional", "required")
        return self.recorders if uses_scorer else {}

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

PolicyFactory = Callable[[Config, Completer | None], AbstractAsyncContextManager[Policy]]
"""Opens a policy that stays open as long as its solver. The model is None for model.url = "none".
"""


def policy_factory(name: str) -> PolicyFactory | None:
    """Return the factory of `policy.source`, "module:factory"; None for "model".

    Raises `ConfigError` for another name.
    """
    if name == "model":
        return None
    if ":" not in name:
        raise ConfigError(f"Unknown policy.source {name!r}; use model or module:factory.")
    factory: PolicyFactory = import_object(name)
    return factory


ScorerFactory = Callable[
    [Config, Completer | None], AbstractAsyncContextManager[Scorer | PairJudge | None]
]
"""Opens a scorer, or a judge of pairs, that stays open as long as its solver. The model is None if
the solver was given a policy instead."""


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


@asynccontextmanager
async def _confidence(config: Config, model: Completer | None) -> AsyncIterator[Scorer | None]:
    yield ConfidenceScorer(config.search)


@asynccontextmanager
async def _prm(config: Config, model: Completer | None) -> AsyncIterator[Scorer | None]:
    from rstar_math.scorers.prm import load_prm

    scorer = await load_prm(config)
    try:
        yield scorer
    finally:
        await scorer.aclose()


@asynccontextmanager
async def _judge(config: Config, model: Completer | None) -> AsyncIterator[Scorer | PairJudge]:
    from rstar_math.llm.connect import connect

    judge = config.judge
    same = judge.url in ("same", config.model.url) and judge.name in (None, config.model.name)
    if same and model is None:
        raise ConfigError("search.scorer=judge needs a model; set judge.url to an address.")
    connection = None
    if not same:
        try:
            connection = await connect(
                judge, config.servers, chat=config.policy.mode != "completion"
            )
        except ModelError as error:
            raise type(error)(str(error).replace("--model", "judge.url")) from error
    completer = connection if connection is not None else model
    assert completer is not None
    try:
        conversation = conversation_for(config.policy, prompting_of(completer))
        kind = PairwiseJudge if judge.mode == "pairwise" else JudgeScorer
        yield kind(completer, judge, conversation, seed=config.search.seed)
    finally:
        if connection is not None:
            await connection.aclose()


SCORER_FACTORIES: dict[str, ScorerFactory] = {
    "none": _no_scorer,
    "confidence": _confidence,
    "self": _self_evaluation,
    "ppm": _ppm,
    "prm": _prm,
    "judge": _judge,
}
"""Factories of scorers, by `search.scorer`."""
_PLACED = ("ppm", "prm")
"""Scorers that accept the form NAME=PLACE."""


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


@dataclass(frozen=True, slots=True)
class NamedScorer:
    """One of the scorers in `search.scorer`."""

    label: str
    """Its name in trees and tables, different from those of the others."""
    factory: ScorerFactory
    config: Config
    """The configuration that the factory gets."""


def parse_scorers(config: Config) -> list[NamedScorer]:
    """Return the scorers that `search.scorer` names, at least one. Raises `ConfigError`."""
    found: list[NamedScorer] = []
    labels: set[str] = set()
    for part in (each.strip() for each in config.search.scorer.split(",")):
        kind, equals, place = part.partition("=")
        label, own = kind, config
        if equals and kind in _PLACED and place:
            label = place.rstrip("/").rpartition("/")[2].partition("@")[0] or kind
            own = config.model_copy(update={"search": _placed(config.search, kind, place)})
        elif equals:
            raise ConfigError(
                f"search.scorer has {part!r}, which is not a scorer; use a name, ppm=PLACE or "
                "prm=PLACE."
            )
        number = 2
        while label in labels:
            label, number = f"{label.partition('#')[0]}#{number}", number + 1
        labels.add(label)
        found.append(NamedScorer(label, scorer_factory(kind), own))
    return found


def _placed(search: SearchConfig, kind: str, place: str) -> SearchConfig:
    """Return the search options with the place and format of one scorer."""
    place, _, chosen = place.partition("@")
    update = {kind: place}
    if chosen and kind == "prm":
        update["prm_format"] = chosen
    return search.model_copy(update=update)
