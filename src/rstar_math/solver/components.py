"""What each strategy works with: with `solver.py` the only place that knows concrete classes."""

from dataclasses import dataclass

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
from rstar_math.search.strategies import (
    ACTIONS,
    CHAINS,
    Reviewer,
    Strategy,
    discriminator_review,
    scorer_review,
)


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
        """What a strategy searches with."""
        kind, actions = strategy.kind, self.config.actions
        policy, scorer = self.policy, self.scorer
        if kind in ("greedy", "sc"):
            policy, scorer = self.greedy if strategy.is_greedy else policy, None
        elif kind in ("zero", "cot", "peer"):
            model = self.require_model(kind, second=kind == "peer")
            heat = 0.0 if strategy.is_greedy else None
            policy = ChainPolicy(
                model,
                actions,
                shots=kind != "zero",
                temperature=heat,
                conversation=conversation_for(self.config.policy, prompting_of(model)),
            )
            scorer = None
        elif kind in ACTIONS:
            depth = self.search(strategy, search).max_depth
            policy = ActionPolicy(self.require_model(kind), actions, group=self.group, depth=depth)
            scorer = None
        elif kind == "tot":
            scorer = _judge(self.require_model(kind), search)
        elif kind == "rap":
            model = self.require_model(kind)
            policy = SubQuestionPolicy(model, self.config.policy, depth=search.max_depth)
            scorer = SubquestionScorer(model, seed=search.seed)
        return SearchComponents(policy, self.executor, scorer, None if kind in CHAINS else verifier)

    def search(self, strategy: Strategy, search: SearchConfig) -> SearchConfig:
        """The options that a strategy searches with: rStar's actions have a depth and a number of
        candidates of their own."""
        actions = self.config.actions
        if strategy.kind not in ACTIONS:
            return search
        depth = actions.depth or load_action_prompts(actions.prompt_set).depth
        own = {"max_depth": depth, "candidates": actions.candidates}
        return search.model_copy(update=own)

    def review(self, strategy: Strategy, search: SearchConfig) -> Reviewer | None:
        """The second look at what a strategy found, if it takes one."""
        actions, mutual = self.config.actions, self.config.mutual
        if strategy.kind == "verify":
            verifier = SolutionVerifierScorer(
                self.require_model("verify"), actions.prompt_set, seed=search.seed
            )
            return scorer_review(verifier, group=self.group)
        if strategy.kind != "rstar":
            return None
        second = self.require_model("rstar", second=True)
        talk = conversation_for(self.config.policy, prompting_of(second))
        peer = ChainDiscriminator(second, actions, mutual, talk)
        return discriminator_review(
            peer, solution_segments, group=self.group, config=mutual, seed=search.seed
        )

    def require_model(self, kind: str, *, second: bool = False) -> Completer:
        """The model itself, for a strategy that has more to ask it than for steps."""
        model = self.second if second else self.model
        if model is None:
            raise ConfigError(
                f"{kind} asks the model in words of its own, and this Solver was given a policy in "
                "its place; leave the policy out, or take another strategy."
            )
        return model


def grader(config: GradingConfig) -> Grader:
    """Who decides, for stages that have answers and no model, whether they are right and equal."""
    return Grader(config)


def _judge(model: Completer, search: SearchConfig) -> SelfEvaluator:
    """The model as the judge of its own steps."""
    return SelfEvaluator(model, check=search.self_check, seed=search.seed)
