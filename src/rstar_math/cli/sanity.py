"""The checks of `rstar eval --check`."""

from collections.abc import Sequence
from itertools import chain

from rstar_math.cli.jobs import OpenJob
from rstar_math.concurrency import gather
from rstar_math.config.sections import Config
from rstar_math.evaluation.sanity import (
    CachingCompleter,
    SanityCheck,
    SearchResult,
    baseline_answer,
    check_baseline,
    check_format,
    check_leakage,
)
from rstar_math.llm.connect import connect
from rstar_math.search.strategies import Strategy
from rstar_math.solver.solver import Solver
from rstar_math.types import Problem, Verdict

LEAK_PROBLEMS = 3
"""Problems that are searched twice for each strategy."""
BASELINE_PROBLEMS = 50
"""Problems that the plain baseline is held against our greedy chain on."""


async def gates(job: OpenJob, config: Config, published: float | None) -> list[SanityCheck]:
    """All gates for a job that is done. Two greedy solutions of at most `BASELINE_PROBLEMS`
    problems and one search of `LEAK_PROBLEMS` for each strategy are asked of the model."""
    graded = [problem for problem in job.problems if problem.reference is not None]
    connection = await connect(config.model, config.servers)
    try:
        model = CachingCompleter(connection)
        found = [
            await _leakage(model, config, graded[:LEAK_PROBLEMS], strategy)
            for strategy in job.job.strategies
        ]
        found += [check_format(job.summary(strategy)) for strategy in job.job.strategies]
        found += await _baseline(model, config, graded[:BASELINE_PROBLEMS], published)
    finally:
        await connection.aclose()
    return found


async def _leakage(
    model: CachingCompleter, config: Config, problems: list[Problem], strategy: Strategy
) -> SanityCheck:
    """The leakage check of one strategy. Every search uses its own solver."""

    async def search(given: Sequence[Problem]) -> Sequence[SearchResult]:
        async with Solver(config, model=model) as solver:
            found = {p.id: s async for p, s in solver.map(given, strategy)}
        return [(found[p.id].tree, found[p.id].choice) for p in given]

    return await check_leakage(search, problems, strategy.name)


async def _baseline(
    model: CachingCompleter, config: Config, problems: list[Problem], published: float | None
) -> list[SanityCheck]:
    """The plain baseline against our greedy chain."""
    async with Solver(config, model=model) as solver:
        plain = [False] * len(problems)

        async def one(at: int, problem: Problem) -> None:
            answer = await baseline_answer(model, problem.question, seed=config.search.seed)
            assert problem.reference is not None
            plain[at] = await solver.judge(answer, problem.reference) is Verdict.RIGHT

        await gather(one(at, problem) for at, problem in enumerate(problems))
        ours = {}
        async for problem, solution in solver.map(problems, Strategy("greedy")):
            assert problem.reference is not None
            verdict = await solver.judge(solution.answer, problem.reference)
            ours[problem.id] = verdict is Verdict.RIGHT
    return list(chain(check_baseline(plain, [ours[p.id] for p in problems], published)))
