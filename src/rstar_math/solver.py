"""The composition root: the one place that knows concrete classes and puts them together."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rstar_math.config import Config, ModelConfig, SearchConfig
from rstar_math.errors import ConfigError, RstarError
from rstar_math.models import (
    ActionPolicy,
    ChainPolicy,
    CompletingPeer,
    SelfEvaluator,
    SelfVerifier,
    StepPolicy,
    SubQuestionPolicy,
    UsefulnessScorer,
    connect,
)
from rstar_math.protocols import Completer, Executor, Grouper, Policy, Scorer, Verifier
from rstar_math.search import Choice, Parts, Tree, pursue
from rstar_math.search.review import Review, by_peer, by_scorer
from rstar_math.search.strategy import ACTIONS, CHAINS, Strategy
from rstar_math.steps.actions import family, solution_units
from rstar_math.types import Problem, Question, Verdict

MCTS = Strategy("mcts")
OnProgress = Callable[[Tree], None]


@dataclass(frozen=True, slots=True)
class Solution:
    """What a search came to."""

    question: Question
    tree: Tree
    choice: Choice

    @property
    def answer(self) -> str | None:
        """The answer chosen, or None where no path ended with one."""
        return self.choice.answer


class Solver:
    """Solves questions: holds a model, a sandbox and a grader while open.

        async with Solver(config) as solver:
            solution = await solver.solve(Question("q1", "What is 6 times 7?"))

    Parts of one's own take the place of the built ones; those that are given are not closed. A
    `policy` takes the place of the model, a `model` and a `discriminator` (any Completers) those of
    the ones that the configuration names.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        model: Completer | None = None,
        policy: Policy | None = None,
        executor: Executor | None = None,
        scorer: Scorer | None = None,
        discriminator: Completer | None = None,
    ) -> None:
        if model is not None and policy is not None:
            raise ConfigError("Solver takes a model or a policy; leave one of them out.")
        self.config = config or Config()
        self._given = (policy, executor)
        self._scorer = scorer
        self._completer = model
        self._second = discriminator
        self.model_name: str | None = None
        """The model's name as its server gives it; None for parts of one's own."""
        self.discriminator_name: str | None = None
        """The same of a second model; None where there is none but the first."""
        self._stack = AsyncExitStack()
        self._policy: Policy
        self._greedy: Policy
        self._executor: Executor

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def _open(self) -> None:
        """Start what was not given."""
        from rstar_math.grading import Grader
        from rstar_math.sandbox import Sandbox

        policy, executor = self._given
        self._grader = await self._stack.enter_async_context(Grader(self.config.grading))
        if executor is None:
            self._executor = await self._stack.enter_async_context(Sandbox(self.config.sandbox))
        else:
            self._executor = executor
        if policy is None:
            if self._completer is None:
                self._completer, self.model_name = await self._connected(self.config.model)
            await self._open_second(self._completer)
            self._policy = StepPolicy(self._completer, self.config.policy)
            cold = self.config.policy.model_copy(update={"temperature": 0.0})
            self._greedy = StepPolicy(self._completer, cold)
            if self._scorer is None and self.config.search.scorer == "self":
                self._scorer = self._judge(self._completer)
        else:
            self._policy = self._greedy = policy

    async def _open_second(self, first: Completer) -> None:
        """The discriminator's model: one that was given, the first one, or one of its own."""
        second, model = self.config.discriminator, self.config.model
        same = second.url in ("same", model.url) and second.name in (None, model.name)
        if self._second is None and same:
            self._second = first
        elif self._second is None:
            self._second, self.discriminator_name = await self._connected(second)

    async def _connected(self, config: ModelConfig) -> tuple[Completer, str]:
        """A model that is closed with the solver, and its name."""
        connection = await connect(config)
        self._stack.push_async_callback(connection.aclose)
        return connection, connection.name

    @property
    def group(self) -> Grouper:
        """Sorts answers into classes of equal ones."""
        return self._grader.group

    def library_versions(self) -> dict[str, str]:
        """Versions of what model-written code runs with; part of what a run's results depend on."""
        from rstar_math.sandbox import versions

        return versions()

    async def judge(self, answer: str | None, reference: str) -> Verdict:
        """Whether a final answer is right; none is wrong. For use after a search, not in it."""
        if answer is None:
            return Verdict.WRONG
        return await self._grader.verifier(reference).judge(answer)

    async def solve(
        self,
        question: Question,
        strategy: Strategy = MCTS,
        *,
        tree: Tree | None = None,
        verifier: Verifier | None = None,
        on_progress: OnProgress | None = None,
    ) -> Solution:
        """Search one question, or go on with a tree of it.

        A `verifier` makes the search terminal-guided, for training data. Raises `ModelError`
        where the model cannot be asked; the tree then holds what was found."""
        tree = tree or Tree(question)
        choice = await pursue(
            tree,
            strategy,
            self._parts(strategy, verifier),
            self._search(strategy),
            group=self.group,
            on_rollout=on_progress,
            review=self._review(strategy),
        )
        return Solution(question, tree, choice)

    def _parts(self, strategy: Strategy, verifier: Verifier | None) -> Parts:
        """What a strategy searches with."""
        kind, seed, actions = strategy.kind, self.config.search.seed, self.config.actions
        policy, scorer = self._policy, self._scorer
        if kind in ("greedy", "sc"):
            policy, scorer = self._greedy if strategy.cold else policy, None
        elif kind in ("zero", "cot", "peer"):
            model = self._model(kind, second=kind == "peer")
            heat = 0.0 if strategy.cold else None
            policy = ChainPolicy(model, actions, shots=kind != "zero", temperature=heat)
            scorer = None
        elif kind in ACTIONS:
            depth, model, scorer = self._search(strategy).depth, self._model(kind), None
            policy = ActionPolicy(model, actions, group=self.group, depth=depth)
        elif kind == "tot":
            scorer = self._judge(self._model(kind))
        elif kind == "rap":
            model, depth = self._model(kind), self.config.search.depth
            policy = SubQuestionPolicy(model, self.config.policy, depth=depth)
            scorer = UsefulnessScorer(model, seed=seed)
        return Parts(policy, self._executor, scorer, None if kind in CHAINS else verifier)

    def _search(self, strategy: Strategy) -> SearchConfig:
        """The options that a strategy searches with: rStar's actions have a depth and a number of
        candidates of their own, and a second look has its part of the budget."""
        search, actions = self.config.search, self.config.actions
        if strategy.kind not in ACTIONS:
            return search
        depth = actions.depth or family(actions.family).depth
        own: dict[str, int | None] = {"depth": depth, "candidates": actions.candidates}
        if strategy.kind != "gen" and search.tokens is not None:
            own["tokens"] = max(1, round(search.tokens * (1 - self.config.mutual.reserve)))
        return search.model_copy(update=own)

    def _review(self, strategy: Strategy) -> Review | None:
        """The second look at what a strategy found, if it takes one."""
        actions, mutual, seed = self.config.actions, self.config.mutual, self.config.search.seed
        if strategy.kind == "verify":
            judge = SelfVerifier(self._model("verify"), actions.family, seed=seed)
            return by_scorer(judge, group=self.group)
        if strategy.kind != "rstar":
            return None
        peer = CompletingPeer(self._model("rstar", second=True), actions, mutual)
        return by_peer(peer, solution_units, group=self.group, config=mutual, seed=seed)

    def _model(self, kind: str, *, second: bool = False) -> Completer:
        """The model itself, for a strategy that has more to ask it than for steps."""
        model = self._second if second else self._completer
        if model is None:
            raise ConfigError(
                f"{kind} asks the model in words of its own, and this Solver was given a policy in "
                "its place; leave the policy out, or take another strategy."
            )
        return model

    def _judge(self, model: Completer) -> SelfEvaluator:
        """The model as the judge of its own steps."""
        search = self.config.search
        return SelfEvaluator(model, check=search.self_check, seed=search.seed)

    async def map(
        self, problems: Iterable[Problem], strategy: Strategy = MCTS, *, guided: bool = False
    ) -> AsyncGenerator[tuple[Problem, Solution], None]:
        """Solutions as they are found, many searches in flight, none waiting for another.

        `guided` lets the search see whether its ends are right, for training data. The first
        `RstarError` ends the others, after every finished solution was given out.
        """

        async def one(problem: Problem) -> tuple[Problem, Solution]:
            verifier = None
            if guided and problem.reference is not None:
                verifier = self._grader.verifier(problem.reference)
            return problem, await self.solve(problem.question, strategy, verifier=verifier)

        waiting = iter(problems)
        running: set[asyncio.Task[tuple[Problem, Solution]]] = set()
        failure: RstarError | None = None
        try:
            while True:
                while failure is None and len(running) < self._in_flight(strategy):
                    problem = next(waiting, None)
                    if problem is None:
                        break
                    running.add(asyncio.create_task(one(problem)))
                if not running:
                    return
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    try:
                        found = task.result()
                    except RstarError as error:
                        failure = error
                    else:
                        yield found
                if failure is not None:
                    for task in running:
                        if task.done() and not task.cancelled() and task.exception() is None:
                            yield task.result()
                    raise failure
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _in_flight(self, strategy: Strategy) -> int:
        """Searches that keep the model busy: what it takes at once, twice, over what one search
        asks for at once. A server counts requests, the embedded model samples."""
        search, model = self.config.search, self.config.model
        if search.trees is not None:
            return search.trees
        if strategy.kind in CHAINS:
            each = strategy.n or 1
        elif strategy.kind in ACTIONS:
            actions = self.config.actions
            each = actions.votes + 2 * actions.candidates if model.embedded else 4
        else:
            each = search.in_flight * (search.candidates if model.embedded else 1)
        return max(2, 2 * model.in_flight // each)
