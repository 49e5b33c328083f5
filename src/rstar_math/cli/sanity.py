"""Runs the checks of `rstar eval --check`."""

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
"""Number of problems that are searched twice per strategy."""
BASELINE_PROBLEMS = 50
"""Number of problems on which the plain baseline is compared with our greedy chain."""


async def run_checks(job: OpenJob, config: Config, published: float | None) -> list[SanityCheck]:
    """The results of all checks on a finished job.

    The model generates two greedy solutions of up to `BASELINE_PROBLEMS` problems and, for each
    strategy, searches `LEAK_PROBLEMS` problems once more.
    """
    graded = [problem for problem in job.problems if problem.reference is not None]
    connection = await connect(config.model, config.servers)
    try:
        model = CachingCompleter(connection)
        results = [
            await _leakage(model, config, graded[:LEAK_PROBLEMS], strategy)
            for strategy in job.job.strategies
        ]
        results += [check_format(job.summary(strategy)) for strategy in job.job.strategies]
        results += await _baseline(model, config, graded[:BASELINE_PROBLEMS], published)
    finally:
        await connection.aclose()
    return results


async def _leakage(
    model: CachingCompleter, config: Config, problems: list[Problem], strategy: Strategy
) -> SanityCheck:
    """The leakage check of one strategy. Each search uses its own Solver."""

    async def search(problems: Sequence[Problem]) -> Sequence[SearchResult]:
        async with Solver(config, model=model) as solver:
            solutions = {p.id: s async for p, s in solver.map(problems, strategy)}
        return [(solutions[p.id].tree, solutions[p.id].choice) for p in problems]

    return await check_leakage(search, problems, strategy.name, model.take_prompts)


async def _baseline(
    model: CachingCompleter, config: Config, problems: list[Problem], published: float | None
) -> list[SanityCheck]:
    """The check that compares the plain baseline with our greedy chain."""
    async with Solver(config, model=model) as solver:
        plain = [False] * len(problems)

        async def grade_baseline(index: int, problem: Problem) -> None:
            answer = await baseline_answer(model, problem.question, seed=config.search.seed)
            plain[index] = await solver.judge(answer, problem) is Verdict.RIGHT

        await gather(grade_baseline(index, problem) for index, problem in enumerate(problems))
        ours = {}
        async for problem, solution in solver.map(problems, Strategy("greedy")):
            verdict = await solver.judge(solution.answer, problem)
            ours[problem.id] = verdict is Verdict.RIGHT
    return list(chain(check_baseline(plain, [ours[p.id] for p in problems], published)))
