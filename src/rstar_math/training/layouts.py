"""Layouts of other training libraries for exported problems, solutions, pairs and outcomes.

trl       the columns of `training.rows`, which TRL and `datasets` read
verl      Parquet: problems for reinforcement learning, and solutions for fine-tuning
          (verl.readthedocs.io, "Prepare Data for Post-Training")
openrlhf  JSON lines with the columns input, output, prompt, chosen, rejected, label
          (OpenRLHF's README, --data.input_key and the like)
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from rstar_math.errors import ConfigError
from rstar_math.prompts.prompt_sets import TRAINED, load_prompt_set
from rstar_math.prompts.templates import prompt_text
from rstar_math.runs.export import Text
from rstar_math.tasks import HiddenTests
from rstar_math.training.rows import OutcomeRow, PreferenceRow, Row, SftRow
from rstar_math.types import Problem

Layout = Literal["trl", "verl", "openrlhf"]
Exported = Literal["problems", "solutions", "pairs", "outcomes"]


class ProblemRow(BaseModel):
    """A problem with its reference answer, for training by reinforcement learning (TRL:
    prompt-only)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Text
    """Plain-text prompt."""
    question: Text
    reference: Text
    problem: Text
    """Problem id."""
    source: Text | None
    level: Text | None
    kind: Text
    """Kind of the problem, such as math or code."""


class Message(BaseModel):
    """A chat message."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Text
    content: Text


class VerlReward(BaseModel):
    """What verl's reward function compares with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    style: Text
    ground_truth: Text


class VerlInfo(BaseModel):
    """What verl passes to a reward function of one's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Text
    index: int
    """Number of the row, from 0."""
    problem: Text
    """Problem id."""
    question: Text


class VerlProblem(BaseModel):
    """A problem in verl's layout for reinforcement learning."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_source: Text
    prompt: list[Message]
    ability: Text
    reward_model: VerlReward
    extra_info: VerlInfo


class VerlSolution(BaseModel):
    """A solution in verl's layouts for fine-tuning: one turn (prompt, response) and messages."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Text
    response: Text
    messages: list[Message]


class OpenRlhfProblem(BaseModel):
    """A problem: `--input_key input --label_key answer`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Text
    answer: Text
    datasource: Text


class OpenRlhfSolution(BaseModel):
    """A solution: `--input_key input --output_key output`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Text
    output: Text


class OpenRlhfPair(BaseModel):
    """A pair: `--prompt_key prompt --chosen_key chosen --rejected_key rejected`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Text
    chosen: Text
    rejected: Text


class OpenRlhfOutcome(BaseModel):
    """A solution with its label (KTO): `--input_key input --output_key output --label_key
    label`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Text
    output: Text
    label: bool


def problem_rows(problems: Iterable[Problem]) -> Iterator[ProblemRow]:
    """Yield one row per problem whose reference is a text. Hidden tests are none."""
    for problem in problems:
        is_text = not isinstance(problem.reference, HiddenTests)
        if problem.reference_text is not None and is_text:
            yield ProblemRow(
                prompt=prompt_text(problem.question),
                question=problem.question.shown,
                reference=problem.reference_text,
                problem=problem.id,
                source=problem.source,
                level=problem.level,
                kind=problem.question.kind.value,
            )


def _messages(question: str) -> list[Message]:
    """The chat prompt of a trained policy."""
    return [
        Message(role="system", content=load_prompt_set(TRAINED).system),
        Message(role="user", content=question),
    ]


def _verl_problem(row: Any, index: int) -> VerlProblem:
    return VerlProblem(
        data_source=row.source or "rstar-math",
        prompt=_messages(row.question),
        ability=row.kind,
        reward_model=VerlReward(style="rule", ground_truth=row.reference),
        extra_info=VerlInfo(split="train", index=index, problem=row.problem, question=row.question),
    )


def _verl_solution(row: Any, index: int) -> VerlSolution:
    answer = Message(role="assistant", content=row.completion)
    return VerlSolution(
        prompt=row.question,
        response=row.completion,
        messages=[*_messages(row.question), answer],
    )


def _openrlhf_problem(row: Any, index: int) -> OpenRlhfProblem:
    source = row.source or "default"
    return OpenRlhfProblem(input=row.question, answer=row.reference, datasource=source)


def _openrlhf_solution(row: Any, index: int) -> OpenRlhfSolution:
    return OpenRlhfSolution(input=row.prompt, output=row.completion)


def _openrlhf_pair(row: Any, index: int) -> OpenRlhfPair:
    return OpenRlhfPair(prompt=row.prompt, chosen=row.chosen, rejected=row.rejected)


def _openrlhf_outcome(row: Any, index: int) -> OpenRlhfOutcome:
    return OpenRlhfOutcome(input=row.prompt, output=row.completion, label=row.label)


EXPORTED: dict[Exported, type[BaseModel]] = {
    "problems": ProblemRow,
    "solutions": SftRow,
    "pairs": PreferenceRow,
    "outcomes": OutcomeRow,
}
"""The rows of the layout "trl"."""
Converter = tuple[type[BaseModel], Callable[[Any, int], BaseModel]]
LAYOUTS: dict[tuple[Layout, Exported], Converter] = {
    ("verl", "problems"): (VerlProblem, _verl_problem),
    ("verl", "solutions"): (VerlSolution, _verl_solution),
    ("openrlhf", "problems"): (OpenRlhfProblem, _openrlhf_problem),
    ("openrlhf", "solutions"): (OpenRlhfSolution, _openrlhf_solution),
    ("openrlhf", "pairs"): (OpenRlhfPair, _openrlhf_pair),
    ("openrlhf", "outcomes"): (OpenRlhfOutcome, _openrlhf_outcome),
}


def in_layout(
    layout: Layout, kind: Exported, rows: Iterable[Row | ProblemRow]
) -> tuple[type[BaseModel], Iterator[BaseModel]]:
    """The pydantic model of a layout, and the rows in it.

    Raises `ConfigError` if the layout has no such rows.
    """
    if layout == "trl":
        return EXPORTED[kind], iter(rows)
    if (layout, kind) not in LAYOUTS:
        kinds = [name for other, name in LAYOUTS if other == layout]
        raise ConfigError(
            f"The layout {layout} has no {kind}; export {' or '.join(kinds)}, or choose another "
            "--layout."
        )
    model, convert = LAYOUTS[layout, kind]
    return model, (convert(row, index) for index, row in enumerate(rows))
