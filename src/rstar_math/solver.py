"""The composition root: the one place that knows concrete classes and puts them together."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rstar_math.config import Config, SearchConfig, load_config
from rstar_math.errors import ConfigError, InputError, RstarError
from rstar_math.foreign import encodable
from rstar_math.models import (
    SelfEvaluator,
    StepPolicy,
    SubQuestionPolicy,
    UsefulnessScorer,
    connect,
)
from rstar_math.protocols import Completer, Executor, Grouper, Policy, Scorer, Verifier
from rstar_math.search import Choice, Parts, Tree, pursue
from rstar_math.search.pursue import answer_rule, choose
from rstar_math.search.strategy import Strategy
from rstar_math.types import Problem, Question, Verdict

MCTS = Strategy("mcts")
_CHAINS = ("greedy", "sc", "bon")
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
    `policy` takes the place of the model, a `model` (any Completer) that of the one that the
    configuration names.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        model: Completer | None = None,
        policy: Policy | None = None,
        executor: Executor | None = None,
        scorer: Scorer | None = None,
    ) -> None:
        if model is not None and policy is not None:
            raise ConfigError("Solver takes a model or a policy; leave one of them out.")
        self.config = config or Config()
        self._given = (policy, executor)
        self._scorer = scorer
        self._completer = model
        self.model_name: str | None = None
        """The model's name as its server gives it; None for parts of one's own."""
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
                connection = await connect(self.config.model)
                self._stack.push_async_callback(connection.aclose)
                self.model_name = connection.name
                self._completer = connection
            self._policy = StepPolicy(self._completer, self.config.policy)
            cold = self.config.policy.model_copy(update={"temperature": 0.0})
            self._greedy = StepPolicy(self._completer, cold)
            if self._scorer is None and self.config.search.scorer == "self":
                self._scorer = self._judge(self._completer)
        else:
            self._policy = self._greedy = policy

    @property
    def group(self) -> Grouper:
        """Sorts answers into classes of equal ones."""
        return self._grader.group

    def library_versions(self) -> dict[str, str]:
        """Versions of what model-written code runs with; part of what a run's results depend on."""
        from rstar_math.sandbox import versions

        return versions()

    async def judge(self, answer: str | None, reference: str) -> Verdict:
        """Whether a final answer is right; no answer is wrong. For use after a search, not in
        it."""
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
        search: SearchConfig | None = None,
        on_progress: OnProgress | None = None,
    ) -> Solution:
        """Search one question, or go on with a tree of it.

        A `verifier` makes the search terminal-guided, for training data; `search` takes the place
        of the configuration's section. Raises `ModelError` where the model cannot be asked; the
        tree then holds what was found, also after a cancellation.
        """
        tree = tree or Tree(question)
        search = search or self.config.search
        choice = await pursue(
            tree,
            strategy,
            self._parts(strategy, verifier, search),
            search,
            group=self.group,
            on_rollout=on_progress,
        )
        return Solution(question, tree, choice)

    async def choice(
        self, tree: Tree, strategy: Strategy = MCTS, *, search: SearchConfig | None = None
    ) -> Choice:
        """The answer of a tree as it stands: of one whose search goes on, or was cut short."""
        search = search or self.config.search
        scored = self._parts(strategy, None, search).scorer is not None
        rule = answer_rule(strategy, search, scored=scored)
        return await choose(tree, rule, search, self.group)

    def _parts(self, strategy: Strategy, verifier: Verifier | None, search: SearchConfig) -> Parts:
        """What a strategy searches with."""
        kind, seed = strategy.kind, search.seed
        policy, scorer = self._policy, self._scorer
        if kind in ("greedy", "sc"):
            policy, scorer = self._greedy if kind == "greedy" else policy, None
        elif kind == "tot":
            scorer = self._judge(self._model(kind))
        elif kind == "rap":
            model, depth = self._model(kind), search.depth
            policy = SubQuestionPolicy(model, self.config.policy, depth=depth)
            scorer = UsefulnessScorer(model, seed=seed)
        return Parts(policy, self._executor, scorer, None if kind in _CHAINS else verifier)

    def _model(self, kind: str) -> Completer:
        """The model itself, for a strategy that has more to ask it than for steps."""
        if self._completer is None:
            raise ConfigError(
                f"{kind} asks the model to judge itself, and this Solver was given a policy in its "
                "place; leave the policy out, or take another strategy."
            )
        return self._completer

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
        if strategy.kind in _CHAINS:
            each = 1 if strategy.kind == "greedy" else strategy.n or 1
        else:
            each = search.in_flight * (search.candidates if model.embedded else 1)
        return max(2, 2 * model.in_flight // each)


def solve(
    question: str,
    *,
    model: str | None = None,
    strategy: str = "mcts",
    config: Config | None = None,
) -> Solution:
    """The solution of one question, for code without asyncio; inside an event loop use `Solver`.

    `model` and `strategy` are as `rstar solve` takes them; a `config` brings its own model. Raises
    `RstarError`.
    """
    from rstar_math.problems import question_id
    from rstar_math.search.strategy import parse_strategies

    if config is not None and model is not None:
        raise ConfigError("solve takes a model or a config; put the model into config.model.url.")
    chosen, *others = parse_strategies(strategy)
    if others:
        raise ConfigError("solve takes one strategy; compare several with rstar eval.")
    if encodable(question) != question:
        raise InputError("The question holds characters that are not valid text; take them out.")

    async def once() -> Solution:
        async with Solver(config or load_config(model=model)) as solver:
            return await solver.solve(Question(question_id(question), question), chosen)

    return asyncio.run(once())
