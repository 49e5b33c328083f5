"""Runs of the toy world to make reports of: no model, no process."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rstar_math.config import load_config
from rstar_math.evaluation.results import AnswerJudge
from rstar_math.runs.results import run_conditions
from rstar_math.runs.store import RunStore
from rstar_math.search import SearchComponents, Tree, run_strategy
from rstar_math.search.strategies import parse_strategies
from rstar_math.testing import ToyWorld
from rstar_math.types import Problem, Question, Verdict
from tests.unit.toy import by_text, same_text

WORLD = ToyWorld(steps=3, right=0.72, slip=0.12, trap=0.06, fails=0.05, dead=0.05)
HOSTILE = '<script>alert(x)</script> & "q" | [x](javascript:y) `c` <img src=//evil onerror=z>'


async def judge(problem: Problem, answer: str) -> Verdict:
    """By their text."""
    return Verdict.RIGHT if answer == problem.reference else Verdict.WRONG


GRADING = AnswerJudge(by_text, judge)


def problems(count: int) -> list[Problem]:
    """Toy problems under the names of a benchmark, with levels."""
    found = WORLD.problems(count)
    return [
        Problem(Question(f"svamp/test/{i}", p.question.text), p.reference, "svamp", str(1 + i % 3))
        for i, p in enumerate(found)
    ]


def write_run(
    path: Path,
    strategies: str,
    given: Sequence[Problem],
    *settings: str,
    scored: bool = True,
) -> Path:
    """A run file with the strategies' results on the problems."""
    config = load_config(None, ["search.candidates=4", "search.rollouts=6", *settings])
    parts = SearchComponents(
        WORLD.policy, WORLD.executor, WORLD.scorer(noise=0.4) if scored else None, None
    )

    async def work() -> None:
        with RunStore.open(path, run_conditions(config, guided=False)) as store:
            store.add_problems(given)
            store.set_default_fact("libraries", '{"numpy": "2"}')
            store.require_fact("model", "toy <b>world</b>")
            for strategy in parse_strategies(strategies):
                own = parts if strategy.kind not in ("greedy", "sc") else _unscored(parts)
                for problem in given:
                    tree = Tree(problem.question)
                    choice = await run_strategy(tree, strategy, own, config.search, group=same_text)
                    verdict = None
                    if problem.reference is not None:
                        verdict = await judge(problem, choice.answer or "")
                    store.save(strategy.name, tree, choice, verdict)

    asyncio.run(work())
    return path


def _unscored(parts: SearchComponents) -> SearchComponents:
    """The same parts without the scorer."""
    fields: dict[str, Any] = {"scorer": None}
    return replace(parts, **fields)
