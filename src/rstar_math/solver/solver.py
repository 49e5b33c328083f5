"""`Solver`: builds the components of a configuration and solves questions and problems."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rstar_math.config.loading import load_config
from rstar_math.config.sections import Config, ModelConfig, SearchConfig
from rstar_math.errors import ConfigError, InputError, ModelError, RstarError
from rstar_math.llm.balancing import request_affinity
from rstar_math.llm.connect import connect
from rstar_math.policies.completions import StepPolicy
from rstar_math.protocols import AnswerGrouper, Completer, Executor, Policy, Scorer, Verifier
from rstar_math.runs.results import PackedResult, pack_result
from rstar_math.search.runner import choose, run_strategy
from rstar_math.search.selection import selection_rule
from rstar_math.search.strategies import (
    Strategy,
    answer_rule,
)
from rstar_math.search.tree import Tree
from rstar_math.search.voting import Choice
from rstar_math.solver.components import Components, scorer_factory
from rstar_math.text import replace_surrogates
from rstar_math.types import Problem, Question, Verdict

MCTS = Strategy("mcts")
ProgressCallback = Callable[[Tree], None]


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
        """The same of the discriminator's, which may be the first."""
        self.servers: dict[str, Any] = {}
        """Of the models "policy", "discriminator" and "ppm" those that run on servers: their
        `llm.balancing.Replicas`, as `llm.metrics` takes them."""
        self.prompting: dict[str, str] = {}
        """How the policy's model is asked: prompt set, step format and mode; empty for a policy of
        one's own."""
        self._stack = AsyncExitStack()
        self._kit: Components

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
        from rstar_math.grading.grader import Grader
        from rstar_math.sandbox.executor import Sandbox

        selection_rule(self.config.search.selection)
        policy, executor = self._given
        self._grader = await self._stack.enter_async_context(Grader(self.config.grading))
        if executor is None:
            executor = await self._stack.enter_async_context(Sandbox(self.config.sandbox))
        model, second, scorer = self._completer, self._second, self._scorer
        if policy is not None:
            scorer = scorer or await self._open_scorer(None)
            self._kit = Components(self.config, policy, policy, executor, self.group, scorer)
            return
        if model is None:
            model, self.model_name = await self._connected(self.config.model, "policy")
        if second is None:
            second = await self._open_discriminator(model)
        if scorer is None:
            scorer = await self._open_scorer(model)
        warm = StepPolicy(model, self.config.policy)
        self.prompting = warm.renderer.description
        greedy = self.config.policy.model_copy(update={"temperature": 0.0})
        cold = StepPolicy(model, greedy, warm.renderer)
        self._kit = Components(self.config, warm, cold, executor, self.group, scorer, model, second)

    async def _open_scorer(self, model: Completer | None) -> Scorer | None:
        """The scorer that the configuration names."""
        factory = scorer_factory(self.config.search.scorer)
        scorer = await self._stack.enter_async_context(factory(self.config, model))
        self._remember_servers("ppm", scorer)
        return scorer

    def _remember_servers(self, use: str, model: object) -> None:
        """Remember the servers of a model that has any."""
        if (replicas := getattr(model, "replicas", None)) is not None:
            self.servers[use] = replicas

    async def _open_discriminator(self, first: Completer) -> Completer:
        """The discriminator's model: the first one, or one of its own."""
        second, model = self.config.discriminator, self.config.model
        alike = second.url == model.url and second.adapter == model.adapter
        if (alike or second.url == "same") and second.name in (None, model.name):
            self.discriminator_name = self.model_name
            return first
        try:
            found, self.discriminator_name = await self._connected(second, "discriminator")
        except ModelError as error:
            raise type(error)(str(error).replace("--model", "--discriminator")) from error
        return found

    async def _connected(self, config: ModelConfig, use: str) -> tuple[Completer, str]:
        """A model that is closed with the solver, and its name."""
        chat = self.config.policy.mode != "completion"
        connection = await connect(config, self.config.servers, chat=chat)
        self._stack.push_async_callback(connection.aclose)
        self._remember_servers(use, connection)
        return connection, connection.name

    @property
    def group(self) -> AnswerGrouper:
        """Sorts answers into classes of equal ones."""
        return self._grader.group

    def library_versions(self) -> dict[str, str]:
        """Versions of what model-written code runs with; part of what a run's results depend on."""
        from rstar_math.sandbox.processes import versions

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
        search: SearchConfig | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> Solution:
        """Search one question, or go on with a tree of it.

        A `verifier` makes the search terminal-guided, for training data; `search` takes the place
        of the configuration's section. Raises `ModelError` where the model cannot be asked; the
        tree then holds what was found, also after a cancellation.
        """
        tree = tree or Tree(question)
        search = search or self.config.search
        with request_affinity(question.id):
            choice = await run_strategy(
                tree,
                strategy,
                self._kit.parts(strategy, search, verifier),
                self._kit.search(strategy, search),
                group=self.group,
                on_rollout=on_progress,
                review=self._kit.review(strategy, search),
            )
        return Solution(question, tree, choice)

    async def current_choice(
        self, tree: Tree, strategy: Strategy = MCTS, *, search: SearchConfig | None = None
    ) -> Choice:
        """The answer of a tree as it stands, without a second look: of one whose search goes on, or
        was cut short."""
        search = search or self.config.search
        scored = self._kit.parts(strategy, search, None).scorer is not None
        rule = answer_rule(strategy, search, scored=scored)
        return await choose(tree, rule, search, self.group)

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
                while failure is None and len(running) < self.max_concurrent_searches(strategy):
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

    def max_concurrent_searches(self, strategy: Strategy) -> int:
        """Searches that keep the model busy: what it takes at once, twice, over what one search
        asks for at once. A server counts requests, the embedded model samples; of single chains it
        gets no more than it has streams, each of which then keeps its chain's beginning."""
        search, model = self.config.search, self.config.model
        if search.parallel_problems is not None:
            return search.parallel_problems
        if strategy.spec.is_chain:
            each = strategy.n or (2 if model.embedded else 1)
        elif strategy.spec.policy == "actions":
            actions = self.config.actions
            each = actions.votes + 2 * actions.candidates if model.embedded else 4
        else:
            each = search.parallel_rollouts * (search.candidates if model.embedded else 1)
        return max(2, 2 * model.in_flight * self.config.policy_server_count // each)


def solve(
    question: str,
    *,
    model: str | None = None,
    strategy: str | None = None,
    config: Config | None = None,
) -> Solution:
    """The solution of one question, for code without asyncio; inside an event loop use `Solver`.

    `model` and `strategy` (by default the config's) are as `rstar solve` takes them; a `config`
    brings its own model. Raises `RstarError`.
    """
    from rstar_math.problems.jsonl import question_id
    from rstar_math.search.strategies import parse_strategies

    if config is not None and model is not None:
        raise ConfigError("solve takes a model or a config; put the model into config.model.url.")
    settings = config or load_config(model=model)
    chosen, *others = parse_strategies(strategy or settings.search.strategy)
    if others:
        raise ConfigError("solve takes one strategy; compare several with rstar eval.")
    if replace_surrogates(question) != question:
        raise InputError("The question holds characters that are not valid text; take them out.")

    async def once() -> Solution:
        async with Solver(settings) as solver:
            return await solver.solve(Question(question_id(question), question), chosen)

    return asyncio.run(once())


class LocalSearcher:
    """An open solver as `Searcher`."""

    def __init__(self, solver: Solver) -> None:
        self._solver = solver
        self.config = solver.config
        self.servers = solver.servers
        self.prompting = solver.prompting
        self.library_versions = solver.library_versions

    @property
    def model_name(self) -> str | None:
        """See `Searcher`."""
        return self._solver.model_name

    @property
    def discriminator_name(self) -> str | None:
        """See `Searcher`."""
        return self._solver.discriminator_name

    async def iter_results(
        self, problems: Iterable[Problem], strategy: Strategy, *, guided: bool
    ) -> AsyncGenerator[tuple[Problem, PackedResult], None]:
        """See `Searcher`. The reference answer is used after a search to judge the choice, and in
        it only where `guided`."""
        found = self._solver.map(problems, strategy, guided=guided)
        try:
            async for problem, solution in found:
                verdict = None
                if problem.reference is not None:
                    verdict = await self._solver.judge(solution.answer, problem.reference)
                yield problem, pack_result(strategy.name, solution.tree, solution.choice, verdict)
        finally:
            await found.aclose()
