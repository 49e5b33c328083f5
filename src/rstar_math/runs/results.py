"""Results packed for the run file, and the conditions that a run's results depend on."""

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rstar_math.config.sections import VLLM, Config
from rstar_math.search.tree import Tree, to_record
from rstar_math.search.voting import Choice
from rstar_math.text import replace_surrogates
from rstar_math.types import Cost, Problem, Verdict

LEVEL = 6
"""Of zlib: 9 takes twice the time for one hundredth less."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one strategy came to on one problem, without its tree."""

    problem: str
    strategy: str
    choice: Choice
    verdict: Verdict | None
    cost: Cost
    failures: dict[str, int]
    """Paths that ended without an answer, by reason."""


@dataclass(frozen=True, slots=True)
class PackedResult:
    """A result with its tree as it lies in the run file."""

    result: Result
    tree: bytes
    solved: bool
    """Whether the choice was judged right, or in a guided search any path."""

    def row(self) -> tuple[Any, ...]:
        """The row of the table `results`."""
        found = self.result
        return (
            found.problem,
            found.strategy,
            found.choice.answer,
            found.choice.share,
            found.choice.node,
            json.dumps(found.choice.votes, ensure_ascii=False),
            None if found.verdict is None else found.verdict.value,
            json.dumps(asdict(found.cost)),
            json.dumps(found.failures),
            self.tree,
        )


def any_path_correct(tree: Tree) -> bool:
    """Whether any path of a guided search came to the right answer."""
    return any(node.verdict is Verdict.RIGHT for node in tree)


def pack_result(strategy: str, tree: Tree, choice: Choice, verdict: Verdict | None) -> PackedResult:
    """A finished search, packed: record, JSON, zlib."""
    record = replace_surrogates(json.dumps(to_record(tree), ensure_ascii=False))
    blob = zlib.compress(record.encode(), LEVEL)
    result = Result(tree.question.id, strategy, choice, verdict, tree.cost, tree.failures())
    solved = verdict is Verdict.RIGHT or any_path_correct(tree)
    return PackedResult(result, blob, solved)


def read_result(strategy: str, row: Sequence[Any]) -> Result:
    """A row of results without strategy and tree, read."""
    problem, answer, share, node, votes, verdict, cost, failures = row
    return Result(
        problem=problem,
        strategy=strategy,
        choice=Choice(answer, node, share, json.loads(votes)),
        verdict=None if verdict is None else Verdict(verdict),
        cost=Cost(**json.loads(cost)),
        failures=json.loads(failures),
    )


@dataclass(frozen=True, slots=True)
class SearchedProblem:
    """A problem and the trees that were grown on it, by the name of the strategy."""

    problem: Problem
    trees: tuple[tuple[str, Tree], ...]


def run_conditions(config: Config, *, guided: bool) -> dict[str, Any]:
    """What a run's results depend on, as flat `section.key` entries: a run goes on only where
    these are equal."""
    flat: dict[str, Any] = {"guided": guided}
    for section, values in config.model_dump(mode="json").items():
        for key, value in values.items():
            if key not in SPEED_ONLY_OPTIONS.get(section, set()):
                flat[f"{section}.{key}"] = value
    if config.model.embedded:
        flat["model.name"] = config.model.url
    elif config.model.url.startswith(VLLM):
        flat["model.name"] = " ".join(filter(None, (config.model.url, config.model.name)))
    second = config.discriminator.url
    placed = config.discriminator.embedded or second.startswith(VLLM)
    if second != "same" and placed and second != config.model.url:
        flat["discriminator.url"] = second
    return flat


_CONNECTION = {"url", "api_key_env", "concurrency", "timeout_s", "max_retries", "affinity"}
SPEED_ONLY_OPTIONS = {
    "model": _CONNECTION,
    "discriminator": _CONNECTION,
    "search": {"parallel_problems", "strategy"},
    "sandbox": {"workers"},
    "grading": {"workers"},
    "servers": {
        "vllm_command",
        "hardware_args",
        "replicas",
        "gpus",
        "ppm_gpus",
        "startup_timeout_s",
        "log_dir",
    },
}
"""Options that change how fast a run goes and not what it finds."""


def default_conditions() -> dict[str, Any]:
    """The conditions of a run whose file names none: those of options that were added later."""
    return run_conditions(Config(), guided=False)
