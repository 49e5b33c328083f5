"""Runs the searches of a run file with a solver in this process."""

from collections.abc import AsyncGenerator, Iterable

from rstar_math.runs.journal import GrowingTrees
from rstar_math.runs.results import PackedResult, pack_result
from rstar_math.search.strategies import Strategy
from rstar_math.solver.solver import Solver
from rstar_math.types import Problem


class LocalSearcher:
    """A `runs.execute.Searcher` that uses an open solver in this process."""

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
        self,
        problems: Iterable[Problem],
        strategy: Strategy,
        *,
        guided: bool,
        growing: GrowingTrees | None = None,
    ) -> AsyncGenerator[tuple[Problem, PackedResult], None]:
        """See `Searcher`. A reference is used during a search only if `guided`, else only after."""
        solutions = self._solver.map(problems, strategy, guided=guided, growing=growing)
        try:
            async for problem, solution in solutions:
                verdict = None
                if problem.reference is not None:
                    verdict = await self._solver.judge(solution.answer, problem)
                yield problem, pack_result(strategy.name, solution.tree, solution.choice, verdict)
        finally:
            await solutions.aclose()
