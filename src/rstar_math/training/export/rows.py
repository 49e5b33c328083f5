"""What a line of each kind of training data holds. The text columns are those that TRL reads
without further preparation; the others say where a row comes from."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from rstar_math.steps.grammar import FENCED, StepFormat
from rstar_math.training.curation import Curated, Data
from rstar_math.training.rows import output_spans
from rstar_math.training.texts import pair_texts, prompt_text, solution_text, step_texts


def _writable(text: object) -> object:
    """Text with lone surrogates, which no file can hold, as question marks: as long as before."""
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else text


Text = Annotated[str, BeforeValidator(_writable)]
Value = Annotated[float, Field(ge=-1, le=1)]


class Row(BaseModel):
    """A line of training data: the columns that all kinds share."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    data: ClassVar[Data]

    prompt: Text
    """The plain prompt; a continuation follows it directly, without a space or a new line
    between."""
    question: Text
    """The question alone: a trainer renders the prompt of its model from it and the prefix."""
    format: Literal["fenced", "tags"]
    """How the steps are written."""
    problem: Text
    """The problem's id. Split by it, never by row."""
    source: Text | None
    strategy: Text
    """The search that the row comes from."""
    node: int = Field(ge=0)
    """The last node of the row's path; of a pair, the node whose children are compared."""


class SftRow(Row):
    """A right solution to imitate (TRL: prompt-completion)."""

    data: ClassVar[Data] = "sft"
    completion: Text
    outputs: list[tuple[int, int]]
    """Pieces of the completion that the interpreter wrote, as (start, end) in characters: not to
    be trained on."""
    answer: Text
    mean_q: Value | None
    min_q: Value | None


class PreferenceRow(Row):
    """A pair (TRL: preference with explicit prompt)."""

    data: ClassVar[Data] = "preference"
    prefix: Text
    """The steps before the two sides; the prompt ends with it."""
    chosen: Text
    rejected: Text
    kind: Literal["step", "final"]
    """Two next steps of one node, or two whole solutions."""
    depth: int = Field(ge=0)
    """Steps in the prompt."""
    q_chosen: Value
    q_rejected: Value
    weight: float = Field(gt=0, le=1)
    """Factor on the pair's loss; those of the step pairs of one node sum to 1, and those of the
    final pairs of one problem."""
    chosen_node: int = Field(ge=0)
    rejected_node: int = Field(ge=0)
    rejected_strategy: Text


class OutcomeRow(Row):
    """A whole solution with its outcome, for an ORM."""

    data: ClassVar[Data] = "outcome"
    completion: Text
    label: bool
    """Whether the answer is right."""


class ValueRow(Row):
    """The beginning of a solution with its Q, for a PQM."""

    data: ClassVar[Data] = "value"
    completion: Text
    value: Value
    depth: int = Field(ge=1)
    """Steps in the completion."""


class StepsRow(Row):
    """A solution with a label for each step (TRL: stepwise supervision)."""

    data: ClassVar[Data] = "steps"
    completions: list[Text]
    """The steps' texts; joined they are the solution."""
    labels: list[bool]
    """Whether any judged end below the step is right."""
    shares: list[Annotated[float, Field(ge=0, le=1)]]
    """Share of the judged ends below the step that are right."""


ROWS: dict[Data, type[Row]] = {
    row.data: row for row in (SftRow, PreferenceRow, OutcomeRow, ValueRow, StepsRow)
}


def rows_of(found: Curated, data: Data, step_format: StepFormat = FENCED) -> Iterator[Row]:
    """The rows of one kind of data, in the order of the run's problems."""
    makers = {
        "sft": _sft_rows,
        "preference": _preference_rows,
        "outcome": _outcome_rows,
        "value": _value_rows,
        "steps": _steps_rows,
    }
    return makers[data](found, step_format)


def _sft_rows(found: Curated, step_format: StepFormat) -> Iterator[Row]:
    for one in found.solutions:
        question, steps = one.trajectory.question, one.trajectory.steps
        yield SftRow(
            prompt=prompt_text(question),
            question=question.text.strip(),
            format=step_format.name,
            completion=solution_text(steps, step_format),
            outputs=output_spans(steps, step_format),
            answer=one.trajectory.answer or "",
            mean_q=one.mean_q,
            min_q=one.min_q,
            problem=question.id,
            source=found.sources.get(question.id),
            strategy=one.spot.strategy,
            node=one.spot.node,
        )


def _preference_rows(found: Curated, step_format: StepFormat) -> Iterator[Row]:
    for one in found.pairs:
        pair = one.pair
        prefix, chosen, rejected = pair_texts(pair, step_format)
        yield PreferenceRow(
            prompt=prompt_text(pair.question) + prefix,
            question=pair.question.text.strip(),
            format=step_format.name,
            prefix=prefix,
            chosen=chosen,
            rejected=rejected,
            kind=one.kind,
            depth=one.depth,
            q_chosen=pair.q_chosen,
            q_rejected=pair.q_rejected,
            weight=pair.weight,
            problem=pair.question.id,
            source=found.sources.get(pair.question.id),
            strategy=one.chosen.strategy,
            node=one.node,
            chosen_node=one.chosen.node,
            rejected_node=one.rejected.node,
            rejected_strategy=one.rejected.strategy,
        )


def _outcome_rows(found: Curated, step_format: StepFormat) -> Iterator[Row]:
    for one in found.outcomes:
        question = one.trajectory.question
        yield OutcomeRow(
            prompt=prompt_text(question),
            question=question.text.strip(),
            format=step_format.name,
            completion=solution_text(one.trajectory.steps, step_format),
            label=one.right,
            problem=question.id,
            source=found.sources.get(question.id),
            strategy=one.spot.strategy,
            node=one.spot.node,
        )


def _value_rows(found: Curated, step_format: StepFormat) -> Iterator[Row]:
    for one in found.values:
        yield ValueRow(
            prompt=prompt_text(one.question),
            question=one.question.text.strip(),
            format=step_format.name,
            completion=solution_text(one.steps, step_format),
            value=one.q,
            depth=len(one.steps),
            problem=one.question.id,
            source=found.sources.get(one.question.id),
            strategy=one.spot.strategy,
            node=one.spot.node,
        )


def _steps_rows(found: Curated, step_format: StepFormat) -> Iterator[Row]:
    for one in found.steps:
        question = one.trajectory.question
        yield StepsRow(
            prompt=prompt_text(question),
            question=question.text.strip(),
            format=step_format.name,
            completions=step_texts(one.trajectory.steps, step_format),
            labels=list(one.hard),
            shares=list(one.soft),
            problem=question.id,
            source=found.sources.get(question.id),
            strategy=one.spot.strategy,
            node=one.spot.node,
        )
