"""Builds the components of a configuration and solves questions and problems with them."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, cast

from rstar_math.concurrency import run_blocking
from rstar_math.config.sections import NO_MODEL, Config, ModelConfig, SearchConfig, normalize_url
from rstar_math.errors import ConfigError, InputError, ModelError, RstarError
from rstar_math.llm.balancing import request_affinity
from rstar_math.llm.connect import connect
from rstar_math.models.default import load_config
from rstar_math.policies.completions import StepPolicy
from rstar_math.policies.judging import PairwiseJudge
from rstar_math.policies.pictures import transcribe
from rstar_math.prompts.actions import check_actions
from rstar_math.protocols import AnswerGrouper, Completer, Executor, Policy, Scorer, Verifier
from rstar_math.runs.journal import GrowingTrees, Journal
from rstar_math.runs.recording import RecordedVerifier
from rstar_math.search.mcts import RolloutCallback
from rstar_math.search.recording import record_scores
from rstar_math.search.runner import choose, run_strategy
from rstar_math.search.selection import selection_rule
from rstar_math.search.strategies import (
    Strategy,
    answer_rule_name,
    parse_strategies,
    parse_strategy,
)
from rstar_math.search.tournament import PairJudge
from rstar_math.search.tree import Tree
from rstar_math.search.voting import Choice
from rstar_math.solver.components import Components, PolicyFactory, parse_scorers, policy_factory
from rstar_math.solver.solution import Solution
from rstar_math.tasks import CodeTask, Kind
from rstar_math.text import replace_surrogates
from rstar_math.types import Problem, Question, Verdict
from rstar_math.verification.code import ExampleScorer, executor_for
from rstar_math.verification.opinions import OpinionJudge

MCTS = Strategy("mcts")
"""The default strategy."""


class Solver:
    """Solves questions. An open solver holds a model, a sandbox and a grader.

        async with Solver(config) as solver:
            solution = await solver.solve(Question("q1", "What is 6 times 7?"))

    Components that you pass replace those of the configuration, and the solver does not close them.
    A `policy` replaces the model. `model` and `discriminator` can be any Completers.
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
            raise ConfigError("Solver accepts a model or a policy, not both; remove one of them.")
        self.config = config or Config()
        self._policy = policy
        self._executor = executor
        self._scorer = scorer
        self._model = model
        self._discriminator = discriminator
        self.model_name: str | None = None
        """Name of the policy's model, as reported by its server; None if the model or policy
        was passed in."""
        self.discriminator_name: str | None = None
        """Name of the discriminator's model, which may be the policy's model; None if the model or
        policy was passed in."""
        self.servers: dict[str, Any] = {}
        """`llm.balancing.Replicas` of each model that runs on servers, by its use: "policy",
        "discriminator", "ppm" (whatever scores steps), or the name of a further scorer."""
        self.prompting: dict[str, str] = {}
        """Prompt, step format and mode of the policy; empty if a policy was passed in."""
        self._describer: Completer | None = None
        self._described: dict[Question, Question] = {}
        self._stack = AsyncExitStack()
        self._components: Components

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
        """Start all components that were not passed in. Raises `RstarError`."""
        from rstar_math.sandbox.executor import Sandbox
        from rstar_math.verification.judges import Judges

        # Fail early if one of these is unknown.
        selection_rule(self.config.search.selection)
        check_actions(self.config.actions.enabled)
        executor = self._executor
        if executor is None:
            executor = await self._stack.enter_async_context(Sandbox(self.config.sandbox))
        sandbox = executor if isinstance(executor, Sandbox) else None
        judges = Judges(self.config.grading, self.config.sandbox, sandbox=sandbox)
        self._judges = await self._stack.enter_async_context(judges)
        await self._open_second_models()
        if self._policy is not None:
            scorer, recorders, pair_judge = await self._open_scorers(None)
            self._components = Components(
                self.config,
                self._policy,
                self._policy,
                executor,
                judges.grader.group,
                scorer,
                discriminator=self._discriminator,
                recorders=recorders,
                pair_judge=pair_judge,
            )
            return
        factory = policy_factory(self.config.policy.source)
        model, discriminator = self._model, self._discriminator
        if model is None and self.config.model.url != NO_MODEL:
            model, self.model_name = await self._connect(self.config.model, "policy")
        if factory is not None:
            self._components = await self._with_own_policy(factory, model, executor)
            return
        if model is None:
            raise ConfigError(
                "model.url = none is for a policy of your own; set policy.source=module:factory, "
                "or name a model."
            )
        if discriminator is None:
            discriminator = await self._open_discriminator(model)
        scorer, recorders, pair_judge = await self._open_scorers(model)
        policy = StepPolicy(model, self.config.policy)
        self.prompting = policy.renderer.description
        greedy_config = self.config.policy.model_copy(update={"temperature": 0.0})
        self._components = Components(
            config=self.config,
            policy=policy,
            greedy_policy=StepPolicy(model, greedy_config, policy.renderer),
            executor=executor,
            group=judges.grader.group,
            scorer=scorer,
            recorders=recorders,
            pair_judge=pair_judge,
            model=model,
            discriminator=discriminator,
        )

    async def _with_own_policy(
        self, factory: PolicyFactory, model: Completer | None, executor: Executor
    ) -> Components:
        """Open the policy of `policy.source` and return the components with it."""
        policy = await self._stack.enter_async_context(factory(self.config, model))
        discriminator = self._discriminator
        if discriminator is None and model is not None:
            discriminator = await self._open_discriminator(model)
        scorer, recorders, pair_judge = await self._open_scorers(model)
        return Components(
            self.config,
            policy,
            policy,
            executor,
            self._judges.grader.group,
            scorer,
            recorders=recorders,
            pair_judge=pair_judge,
            model=model,
            discriminator=discriminator,
        )

    async def _open_scorers(
        self, model: Completer | None
    ) -> tuple[Scorer | None, dict[str, Scorer], PairJudge | None]:
        """Open and return the configured scorer, the recording scorers and the judge of pairs.

        A scorer that was passed in replaces the first configured one.
        """
        main: Scorer | PairJudge | None = self._scorer
        recorders: dict[str, Scorer] = {}
        for index, named in enumerate(parse_scorers(self.config)):
            if index == 0 and self._scorer is not None:
                continue
            opened = await self._stack.enter_async_context(named.factory(named.config, model))
            self._remember_servers("ppm" if index == 0 else named.label, opened)
            if index == 0:
                main = opened
            elif isinstance(opened, PairwiseJudge):
                raise ConfigError(
                    "A pairwise judge must be the first scorer, because it gives no values of its "
                    "own; put judge first, or set judge.mode=pointwise."
                )
            elif opened is not None:
                recorders[named.label] = cast("Scorer", opened)
        if isinstance(main, PairwiseJudge):
            return None, recorders, main
        return cast("Scorer | None", main), recorders, None

    async def _open_second_models(self) -> None:
        """Connect to the models of section `problems`, if there are any."""
        named = self.config.problems
        if named.describe is not None:
            self._describer = await self._connect_to(named.describe, "describe")
        if named.judge is not None:
            self._judges.opinion = OpinionJudge(await self._connect_to(named.judge, "judge"))

    async def _connect_to(self, url: str, use: str) -> Completer:
        """Connect to a model by its address, with the limits of the policy's model."""
        update = {"url": normalize_url(url), "name": None, "adapter": None}
        try:
            model, _ = await self._connect(self.config.model.model_copy(update=update), use)
        except ModelError as error:
            raise type(error)(str(error).replace("--model", f"problems.{use}")) from error
        return model

    async def _readable(self, question: Question, strategy: Strategy) -> Question:
        """Return the question as the policy can read it: pictures are transcribed if configured.

        Raises `ConfigError` if the strategy's prompts have no place for pictures or programs.
        """
        kind, policy = strategy.kind, strategy.spec.policy
        if question.kind is Kind.CODE and policy in ("actions", "subquestions"):
            raise ConfigError(
                f"Strategy {kind} reasons in words and writes no programs; use mcts or sc for "
                "code problems."
            )
        if not question.images:
            return question
        if self._describer is not None:
            if question not in self._described:
                self._described[question] = await transcribe(self._describer, question)
            return self._described[question]
        if policy != "steps":
            raise ConfigError(
                f"Strategy {kind} sends no pictures; use mcts or sc, or --set "
                "problems.describe=MODEL."
            )
        return question

    def _remember_servers(self, use: str, model: object) -> None:
        """Store the server replicas of a model in `servers`, if it has any."""
        if (replicas := getattr(model, "replicas", None)) is not None:
            self.servers[use] = replicas

    async def _open_discriminator(self, policy_model: Completer) -> Completer:
        """Return the discriminator's model: the policy's model, or a newly connected one."""
        discriminator, policy = self.config.discriminator, self.config.model
        same_model = discriminator.url == "same" or (
            discriminator.url == policy.url and discriminator.adapter == policy.adapter
        )
        if same_model and discriminator.name in (None, policy.name):
            self.discriminator_name = self.model_name
            return policy_model
        try:
            model, self.discriminator_name = await self._connect(discriminator, "discriminator")
        except ModelError as error:
            raise type(error)(str(error).replace("--model", "--discriminator")) from error
        return model

    async def _connect(self, config: ModelConfig, use: str) -> tuple[Completer, str]:
        """Connect to a model that is closed with the solver; return it and its name."""
        chat = self.config.policy.mode != "completion"
        connection = await connect(config, self.config.servers, chat=chat)
        self._stack.push_async_callback(connection.aclose)
        connection.logprobs = self.config.search.logprobs
        self._remember_servers(use, connection)
        return connection, connection.name

    def grouper(self, question: Question) -> AnswerGrouper:
        """Return the function that sorts answers to a question into equivalence classes."""
        return self._judges.grouper(question)

    def library_versions(self) -> dict[str, str]:
        """Return the versions of the libraries that model-written code can use."""
        from rstar_math.sandbox.processes import versions

        return versions()

    async def judge(self, answer: str | None, problem: Problem | str) -> Verdict:
        """Return whether a final answer is right; None is wrong. Use it only after a search.

        A text instead of a problem is the reference of a mathematical problem.
        """
        if isinstance(problem, str):
            problem = Problem(Question("", ""), problem)
        return await self._judges.judge(problem, answer)

    async def solve(
        self,
        question: Question | str,
        strategy: Strategy | str = MCTS,
        *,
        tree: Tree | None = None,
        verifier: Verifier | None = None,
        search: SearchConfig | None = None,
        on_rollout: RolloutCallback | None = None,
        journal: Journal | None = None,
    ) -> Solution:
        """Search one question, or continue the search of `tree`, and return the solution.

        `question` may be plain text, and `strategy` a name such as "sc@8". A `verifier` makes the
        search terminal-guided; use it only for training data. `search` replaces the configuration's
        section. After an error or a cancellation, `tree` holds everything found so far. With a
        `journal`, all answers are recorded, and those that it already holds are not requested.

        Raises `ModelError` if the model cannot be called, `ConfigError` for an unknown strategy,
        and `InputError` for invalid text.
        """
        question = _as_question(question) if isinstance(question, str) else question
        strategy = parse_strategy(strategy) if isinstance(strategy, str) else strategy
        readable = await self._readable(question, strategy)
        tree = tree or Tree(readable)
        search = search or self.config.search
        components = self._components_for(question)
        if journal is not None:
            journal.tree, components = tree, components.recorded(journal)
            verifier = verifier and RecordedVerifier(verifier, journal)
        with request_affinity(question.id):
            choice = await run_strategy(
                tree,
                strategy,
                components.search_components(strategy, search, verifier),
                components.search_config(strategy, search),
                group=components.group,
                on_rollout=on_rollout,
                reviewer=components.reviewer(strategy, search),
            )
            await record_scores(tree, components.recorders_of(strategy))
        if journal is not None:
            tree.cost.seconds += journal.seconds_before
        return Solution(question, tree, choice)

    async def current_choice(
        self, tree: Tree, strategy: Strategy = MCTS, *, search: SearchConfig | None = None
    ) -> Choice:
        """Return the answer of a tree whose search is unfinished, by votes and without review."""
        search = search or self.config.search
        components = self._components_for(tree.question)
        scored = components.search_components(strategy, search, None).scorer is not None
        search = components.search_config(strategy, search)
        rule = answer_rule_name(strategy, search, scored=scored)
        return await choose(tree, rule, search, components.group)

    def _components_for(self, question: Question) -> Components:
        """Return the components for one question: how its answers group and its steps run."""
        components = replace(
            self._components,
            group=self.grouper(question),
            executor=executor_for(question, self._components.executor),
        )
        task = question.task
        if components.scorer is None and isinstance(task, CodeTask) and task.examples:
            scorer = ExampleScorer(self._judges.sandbox)
            components = replace(components, example_scorer=scorer)
        return components

    async def map(
        self,
        problems: Iterable[Problem],
        strategy: Strategy | str = MCTS,
        *,
        guided: bool = False,
        growing: GrowingTrees | None = None,
    ) -> AsyncGenerator[tuple[Problem, Solution], None]:
        """Solve problems concurrently, and yield each solution as soon as it is found.

        `guided` gives each search a verifier, for training data. `growing` keeps the searches on
        disk, so that a second call after a kill continues them. After the first `RstarError`, no
        new search starts, finished solutions are yielded, running searches are cancelled, and the
        error is raised. Closing the generator cancels all searches.
        """

        chosen = parse_strategy(strategy) if isinstance(strategy, str) else strategy

        async def solve_problem(problem: Problem) -> tuple[Problem, Solution]:
            verifier = None
            if guided and problem.reference is not None:
                verifier = self._judges.verifier(problem)
            if growing is None:
                return problem, await self.solve(problem.question, chosen, verifier=verifier)
            with closing(growing.open(problem.id, chosen.name)) as journal:
                return problem, await self.solve(
                    problem.question, chosen, verifier=verifier, journal=journal
                )

        remaining = iter(problems)
        running: set[asyncio.Task[tuple[Problem, Solution]]] = set()
        failure: RstarError | None = None
        try:
            while True:
                while failure is None and len(running) < self.max_concurrent_searches(chosen):
                    problem = next(remaining, None)
                    if problem is None:
                        break
                    running.add(asyncio.create_task(solve_problem(problem)))
                if not running:
                    return
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    try:
                        solved = task.result()
                    except RstarError as error:
                        failure = error
                    else:
                        yield solved
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
        """Return the number of concurrent searches that keeps the model busy.

        It is twice the model's capacity, divided by the number of concurrent requests of one
        search. Servers count requests, the embedded model counts samples. Single chains on the
        embedded model count double: then each has a decoding slot that keeps its prefix.
        """
        search, model = self.config.search, self.config.model
        if search.parallel_problems is not None:
            return search.parallel_problems
        if strategy.spec.is_chain:
            per_search = strategy.size or (2 if model.embedded else 1)
            per_search = min(per_search, strategy.spec.overrides.get("candidates", per_search))
        elif strategy.spec.uses_actions:
            actions = self.config.actions
            per_search = actions.votes + 2 * actions.candidates if model.embedded else 4
        else:
            per_search = search.parallel_rollouts * (search.candidates if model.embedded else 1)
        return max(2, 2 * model.in_flight * self.config.policy_server_count // per_search)


def solve(
    question: str,
    *,
    model: str | None = None,
    strategy: str | None = None,
    config: Config | None = None,
) -> Solution:
    """Return the solution of one question. Also works in a notebook.

    `model` and `strategy` have the same form as for `rstar solve`. The default strategy is the
    configuration's. `model` and `config` exclude each other. In a coroutine, use `Solver`, which
    does not block the event loop. Raises `RstarError`.
    """
    if config is not None and model is not None:
        raise ConfigError(
            "solve accepts a model or a config, not both; set config.model.url instead of model."
        )
    config = config or load_config(model=model)
    chosen, *others = parse_strategies(strategy or config.search.strategy)
    if others:
        raise ConfigError("solve accepts one strategy; compare several with rstar eval.")

    as_question = _as_question(question)

    async def solve_once(config: Config) -> Solution:
        async with Solver(config) as solver:
            return await solver.solve(as_question, chosen)

    return run_blocking(solve_once(config))


def _as_question(text: str) -> Question:
    """Return a text as a question with a stable id. Raises `InputError` for invalid text."""
    from rstar_math.problems.jsonl import question_id

    if replace_surrogates(text) != text:
        raise InputError("The question contains invalid characters (surrogates); remove them.")
    return Question(question_id(text), text)
