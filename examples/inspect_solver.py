"""rstar-math as a solver of inspect_ai, and its grader as a scorer.

    pip install . inspect-ai
    inspect eval examples/inspect_solver.py --model none -T file=problems.jsonl \\
        -S strategy=mcts -S url=http://localhost:8000/v1

The search uses its own model (`url`; "local" is the embedded one) and its own sandbox. Inspect's
model is not used, so pass `--model none`. Only the scorer gets the target, after the search.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import (
    CORRECT,
    INCORRECT,
    Score,
    Scorer,
    Target,
    accuracy,
    scorer,
    stderr,
)
from inspect_ai.solver import Generate, TaskState, solver
from inspect_ai.solver import Solver as InspectSolver

from rstar_math.config.loading import load_config
from rstar_math.grading import Grader
from rstar_math.problems.jsonl import read_problems
from rstar_math.search.strategies import parse_strategies
from rstar_math.solver.solver import Solver
from rstar_math.types import Question


class Shared:
    """One open Solver for all samples that run at the same time. It closes when none is running."""

    def __init__(self, url: str, settings: list[str]) -> None:
        self._config = load_config(None, settings, model=url)
        self._solver: Solver | None = None
        self._users = 0
        self._lock: asyncio.Lock | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Solver]:
        """The open Solver during a `with` block."""
        self._lock = self._lock or asyncio.Lock()
        async with self._lock:
            self._solver = self._solver or await Solver(self._config).__aenter__()
            self._users += 1
        try:
            yield self._solver
        finally:
            async with self._lock:
                self._users -= 1
                if self._users == 0:
                    await self._solver.__aexit__(None, None, None)
                    self._solver = None


@solver
def rstar(strategy: str = "mcts", url: str = "local", settings: str = "") -> InspectSolver:
    """Search for an answer. `settings` are options as for --set, separated by spaces."""
    (chosen,) = parse_strategies(strategy)
    shared = Shared(url, settings.split())

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        async with shared.opened() as search:
            question = Question(str(state.sample_id), state.input_text)
            found = await search.solve(question, chosen)
        state.output.completion = found.answer or ""
        state.metadata["votes"] = found.choice.votes
        state.metadata["sampled_tokens"] = found.tree.cost.sampled_tokens
        state.completed = True
        return state

    return solve


@scorer(metrics=[accuracy(), stderr()])
def same_value() -> Scorer:
    """Scores an answer as right if our grader considers it equal to the target."""

    async def score(state: TaskState, target: Target) -> Score:
        answer = state.output.completion
        async with Grader() as grader:
            judgement = await grader.compare(answer, target.text)
        right = judgement.verdict.value == "right"
        return Score(
            value=CORRECT if right else INCORRECT, answer=answer, explanation=judgement.reason
        )

    return score


@task
def problems(file: str) -> Task:
    """The problems of a JSONL file."""
    samples = [
        Sample(id=p.id, input=p.question.text, target=p.reference or "")
        for p in read_problems(Path(file))
    ]
    return Task(dataset=MemoryDataset(samples), solver=rstar(), scorer=same_value())
