"""Rows of training data, and rendering them for a model."""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rstar_math.config.loading import explain
from rstar_math.errors import InputError
from rstar_math.models.prompting import prompting_of_tokenizer
from rstar_math.problems.annotated import annotated_steps
from rstar_math.problems.jsonl import question_id
from rstar_math.problems.sources import AnnotatedProblem
from rstar_math.prompts.grammar import FENCED, StepFormat
from rstar_math.prompts.prompt_sets import TRAINED
from rstar_math.prompts.rendering import Renderer, make_renderer
from rstar_math.prompts.templates import (
    pair_texts,
    prompt_text,
    rendered_prompt,
    segments,
    solution_text,
    step_texts,
)
from rstar_math.runs.export import Text
from rstar_math.training.curation.records import Curated, Data
from rstar_math.types import Question, Step

Value = Annotated[float, Field(ge=-1, le=1)]


class Row(BaseModel):
    """A line of training data: the columns that all kinds share. The text columns are those that
    TRL reads; the others say where a row comes from and have defaults, so that data from elsewhere
    can be read. Other columns are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    data: ClassVar[Data]

    prompt: Text
    """The plain prompt; a continuation follows it directly, without a space or a new line
    between."""
    question: Text = ""
    """The question alone: a trainer renders the prompt of its model from it and the prefix. Empty
    in data from elsewhere, whose prompts are used as they are."""
    format: Literal["fenced", "tags"] = "tags"
    """How the steps are written."""
    problem: Text = ""
    """The problem's id. Split by it, never by row."""
    source: Text | None = None
    strategy: Text = ""
    """The search that the row comes from."""
    node: int = Field(0, ge=0)
    """The last node of the row's path; of a pair, the node whose children are compared."""


class SftRow(Row):
    """A right solution to imitate (TRL: prompt-completion)."""

    data: ClassVar[Data] = "sft"
    completion: Text = Field(min_length=1)
    outputs: tuple[tuple[int, int], ...] = ()
    """Pieces of the completion that the interpreter wrote, as (start, end) in characters: not to
    be trained on."""
    answer: Text = ""
    mean_q: Value | None = None
    min_q: Value | None = None


class PreferenceRow(Row):
    """A pair (TRL: preference with explicit prompt)."""

    data: ClassVar[Data] = "preference"
    problem: Text
    prefix: Text = ""
    """The steps before the two sides; the prompt ends with it."""
    chosen: Text = Field(min_length=1)
    rejected: Text = Field(min_length=1)
    kind: Literal["step", "final"] = "step"
    """Two next steps of one node, or two whole solutions."""
    depth: int = Field(0, ge=0)
    """Steps in the prompt."""
    q_chosen: Value | None = None
    q_rejected: Value | None = None
    weight: float = Field(1.0, gt=0)
    """Factor on the pair's loss; those of the step pairs of one node sum to 1, and those of the
    final pairs of one problem."""
    chosen_node: int = Field(0, ge=0)
    rejected_node: int = Field(0, ge=0)
    rejected_strategy: Text = ""


class OutcomeRow(Row):
    """A whole solution and whether its answer is right (ORM)."""

    data: ClassVar[Data] = "outcome"
    problem: Text
    completion: Text = Field(min_length=1)
    label: bool
    """Whether the answer is right."""


class ValueRow(Row):
    """The beginning of a solution with its Q (PQM)."""

    data: ClassVar[Data] = "value"
    problem: Text
    completion: Text = Field(min_length=1)
    value: Value
    depth: int = Field(1, ge=1)
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


R = TypeVar("R", bound=BaseModel)


def solution_row(
    question: Question, steps: Sequence[Step], step_format: StepFormat = FENCED
) -> SftRow:
    """The row of a solution."""
    return SftRow(
        prompt=prompt_text(question),
        question=question.text.strip(),
        format=step_format.name,
        completion=solution_text(steps, step_format),
        outputs=tuple(output_spans(steps, step_format)),
        problem=question.id,
    )


def output_spans(steps: Sequence[Step], step_format: StepFormat) -> list[tuple[int, int]]:
    """Where a solution's text was written by the interpreter, as (start, end) in characters."""
    spans: list[tuple[int, int]] = []
    at = 0
    for piece in segments(steps, step_format):
        if not piece.trained:
            spans.append((at, at + len(piece.text)))
        at += len(piece.text)
    return spans


def annotated_rows(
    solved: Iterable[AnnotatedProblem], step_format: StepFormat = FENCED
) -> tuple[list[SftRow], dict[str, int]]:
    """Rows of annotated solutions (`problems.annotated`), and how many were left out, by reason."""
    rows: list[SftRow] = []
    reasons: Counter[str] = Counter()
    for one in solved:
        found = annotated_steps(one.question, one.solution, one.answer)
        if found.reason is None:
            question = Question(one.id or question_id(one.question), one.question)
            rows.append(solution_row(question, found.steps, step_format))
        else:
            reasons[found.reason] += 1
    return rows, dict(reasons)


def for_model(rows: Sequence[R], renderer: Renderer) -> list[R]:
    """Rows with their prompts rendered for a model; a solution also gets the end of its turn. Rows
    without a question of their own are taken as they are."""
    return [_for_model(row, renderer) for row in rows]


def _for_model(row: R, renderer: Renderer) -> R:
    if not isinstance(row, Row) or not row.question:
        return row
    prefix = row.prefix if isinstance(row, PreferenceRow) else ""
    update = {"prompt": rendered_prompt(renderer, row.question, prefix)}
    if isinstance(row, SftRow):
        update["completion"] = row.completion + renderer.end_of_turn
    return row.model_copy(update=update)


def render_rows(
    rows: Sequence[R], base: str, mode: Literal["auto", "chat", "completion"]
) -> tuple[list[R], dict[str, str]]:
    """Rows rendered for a base model, and how that was done, for its checkpoint's notes. Raises
    `InputError`."""
    from rstar_math.models.loading import convert_load_errors, load_tokenizer

    with convert_load_errors(base):
        tokenizer = load_tokenizer(base)
    renderer = renderer_of_rows(rows, tokenizer, mode)
    return for_model(rows, renderer), renderer.description


def renderer_of_rows(
    rows: Sequence[BaseModel], tokenizer: Any, mode: Literal["auto", "chat", "completion"]
) -> Renderer:
    """How a model with this tokenizer is trained on rows: in chat where it has a template and the
    rows say their questions ("auto"), in the format the rows are written in. Raises `InputError`
    for rows of several formats, and for chat where it cannot be."""
    lines = [row for row in rows if isinstance(row, Row)]
    formats = {line.format for line in lines}
    if len(formats) > 1:
        raise InputError(
            f"The rows mix the step formats {', '.join(sorted(formats))}; curate all runs with one "
            "curation.format."
        )
    template = prompting_of_tokenizer(tokenizer, "the base model").template
    able = template is not None and all(line.question for line in lines)
    if mode == "chat" and not able:
        raise InputError(
            "Training with mode=chat needs a base model with a chat template, and rows that "
            "rstar curate wrote; set mode=completion."
        )
    return make_renderer(
        prompt=TRAINED,
        step_format=formats.pop() if formats else "tags",
        mode="template" if able and mode != "completion" else "completion",
        template=template,
    )


def read_rows(path: Path, kind: type[R]) -> list[R]:
    """The rows of a JSONL file, plain or gzipped. Raises `InputError` naming the first bad line,
    and where there are none."""
    rows: list[R] = []
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            lines = list(file)
        for number, line in enumerate(lines, 1):
            if line.strip():
                rows.append(_row(line, kind, f"{path}, line {number}"))
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read ({why}); name another file.") from error
    if not rows:
        raise InputError(f"{path} holds no rows to train on; curate a run that has some.")
    return rows


def _row(line: bytes, kind: type[R], where: str) -> R:
    try:
        return kind.model_validate(json.loads(line))
    except ValidationError as error:
        raise InputError(
            f"{where}: {explain(error).message}; make the data with rstar curate."
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}).") from None


def fingerprint(rows: Iterable[BaseModel]) -> str:
    """A hash of rows in their order: what a checkpoint says it was trained on."""
    digest = blake2b(digest_size=16)
    for row in rows:
        digest.update(row.model_dump_json().encode("utf-8", "replace") + b"\n")
    return digest.hexdigest()


def held_out(problem: str, share: float, seed: int) -> bool:
    """Whether a problem belongs to the held-out part: by its id alone, so that all its rows go the
    same way in every round and every kind of data."""
    digest = blake2b(f"{seed}:{problem}".encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64
