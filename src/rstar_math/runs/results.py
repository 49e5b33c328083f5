"""Packs results for the run file, and defines the conditions on which a run's results depend."""

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rstar_math.config.sections import VLLM, Config, SearchConfig
from rstar_math.search.records import to_record
from rstar_math.search.tree import Tree
from rstar_math.search.voting import Choice
from rstar_math.text import replace_surrogates
from rstar_math.types import Cost, Problem, Verdict

COMPRESSION_LEVEL = 6
"""zlib level. Level 9 takes twice the time and saves only 1 % more."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one strategy on one problem, without its tree."""

    problem: str
    """Id of the problem."""
    strategy: str
    choice: Choice
    verdict: Verdict | None
    cost: Cost
    failures: dict[str, int]
    """Number of paths that ended without an answer, by reason."""


@dataclass(frozen=True, slots=True)
class PackedResult:
    """A result with its tree, in the form of the run file."""

    result: Result
    tree: bytes
    """The tree's record as compressed JSON."""
    solved: bool
    """Whether the chosen answer is right or, in a guided search, whether any path is right."""

    def row(self) -> tuple[Any, ...]:
        """Return the row of the table `results`."""
        result, choice = self.result, self.result.choice
        return (
            result.problem,
            result.strategy,
            choice.answer,
            choice.share,
            choice.node,
            json.dumps(choice.votes, ensure_ascii=False),
            None if result.verdict is None else result.verdict.value,
            json.dumps(asdict(result.cost)),
            json.dumps(result.failures),
            self.tree,
        )


def disagree(outcomes: Iterable[tuple[Verdict | None, str | None]]) -> bool:
    """Whether results (verdict, answer) of one problem disagree: some are right and others are not.

    Results without a verdict are compared by their answers, except for white space.
    """
    pairs = list(outcomes)
    if any(verdict is not None for verdict, _ in pairs):
        return len({verdict is Verdict.RIGHT for verdict, _ in pairs}) > 1
    return len({"".join((answer or "").split()) for _, answer in pairs}) > 1


def any_path_correct(tree: Tree) -> bool:
    """Return whether any path of a guided search has the right answer."""
    return any(node.verdict is Verdict.RIGHT for node in tree)


def pack_result(strategy: str, tree: Tree, choice: Choice, verdict: Verdict | None) -> PackedResult:
    """Pack a finished search: the tree becomes a record, JSON, and zlib-compressed bytes."""
    record = replace_surrogates(json.dumps(to_record(tree), ensure_ascii=False))
    compressed = zlib.compress(record.encode(), COMPRESSION_LEVEL)
    result = Result(tree.question.id, strategy, choice, verdict, tree.cost, tree.failures())
    solved = verdict is Verdict.RIGHT or any_path_correct(tree)
    return PackedResult(result, compressed, solved)


def read_result(strategy: str, row: Sequence[Any]) -> Result:
    """Parse a row of the table `results`, given without the strategy and the tree."""
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
    """A problem with its trees, each with the name of its strategy."""

    problem: Problem
    trees: tuple[tuple[str, Tree], ...]


def run_conditions(config: Config, *, guided: bool) -> dict[str, Any]:
    """Return everything on which a run's results depend, as flat `section.key` entries.

    A run can be resumed only if these are equal.
    """
    conditions: dict[str, Any] = {"guided": guided}
    for section, values in config.model_dump(mode="json").items():
        for key, value in values.items():
            if key not in SPEED_ONLY_OPTIONS.get(section, set()):
                conditions[f"{section}.{key}"] = value
    # The address of a running server says nothing about its model. Other addresses name the model.
    if config.model.embedded:
        conditions["model.name"] = config.model.url
    elif config.model.url.startswith(VLLM):
        conditions["model.name"] = " ".join(filter(None, (config.model.url, config.model.name)))
    discriminator = config.discriminator.url
    names_model = config.discriminator.embedded or discriminator.startswith(VLLM)
    if discriminator not in ("same", config.model.url) and names_model:
        conditions["discriminator.url"] = discriminator
    judge = config.judge.url
    if config.judge.embedded or judge.startswith(VLLM):
        conditions["judge.url"] = judge
    return conditions


_CONNECTION = {"url", "api_key_env", "concurrency", "timeout_s", "max_retries", "affinity"}
SPEED_ONLY_OPTIONS = {
    "model": _CONNECTION,
    "discriminator": _CONNECTION,
    "judge": _CONNECTION,
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
"""Options that change the speed of a run but not its results, by section."""


def default_conditions() -> dict[str, Any]:
    """Return the conditions with all options at their defaults.

    They apply to options that did not exist when a run was created.
    """
    return run_conditions(Config(), guided=False)


def confidence_options(conditions: Mapping[str, Any]) -> SearchConfig:
    """Return options with the measure of confidence of a run; the defaults if it has none."""
    names = ("confidence_measure", "confidence_window")
    options = {name: conditions.get(f"search.{name}") for name in names}
    try:
        return SearchConfig(**{key: value for key, value in options.items() if value is not None})
    except ValueError:
        return SearchConfig()
