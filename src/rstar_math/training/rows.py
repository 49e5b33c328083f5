"""Row schemas of training data, reading them, and rendering their prompts for a model."""

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
from rstar_math.files import iter_lines
from rstar_math.models.prompting import prompting_of_tokenizer
from rstar_math.problems.annotated import parse_solution
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
)
from rstar_math.runs.export import Text
from rstar_math.training.curation.records import Curated, Data
from rstar_math.types import Question, Step

Value = Annotated[float, Field(ge=-1, le=1)]


class Row(BaseModel):
    """Columns that all kinds of training data share.

    Text columns have the names that TRL expects. Provenance columns have defaults, so data from
    other sources can be read. Unknown columns are ignored.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    data: ClassVar[Data]

    prompt: Text
    """Plain-text prompt. A continuation follows without a space or newline in between."""
    question: Text = ""
    """The question alone. A trainer renders its model's prompt from the question and the prefix.
    Empty in data from other sources, whose prompts are used unchanged."""
    format: Literal["fenced", "tags"] = "tags"
    """Step format."""
    problem: Text = ""
    """Problem id. Data must be split by this id, never by row."""
    source: Text | None = None
    """Source of the problem."""
    strategy: Text = ""
    """Search strategy that built the tree."""
    node: int = Field(0, ge=0)
    """Last node of the row's path; for a pair, the node whose children are compared."""


class SftRow(Row):
    """A right solution to imitate (TRL: prompt-completion)."""

    data: ClassVar[Data] = "sft"
    completion: Text = Field(min_length=1)
    outputs: tuple[tuple[int, int], ...] = ()
    """Spans of program output in the completion, as (start, end) in characters. They are not
    trained on."""
    answer: Text = ""
    mean_q: Value | None = None
    min_q: Value | None = None


class PreferenceRow(Row):
    """A preference pair (TRL: preference with explicit prompt)."""

    data: ClassVar[Data] = "preference"
    problem: Text
    prefix: Text = ""
    """Text of the steps that the two sides share. The prompt ends with it."""
    chosen: Text = Field(min_length=1)
    rejected: Text = Field(min_length=1)
    kind: Literal["step", "final"] = "step"
    """Two next steps of one node, or two whole solutions."""
    depth: int = Field(0, ge=0)
    """Number of steps in the prompt."""
    q_chosen: Value | None = None
    q_rejected: Value | None = None
    weight: float = Field(1.0, gt=0)
    """Factor on the pair's loss. The weights of one node's step pairs sum to 1, and so do those of
    one problem's final pairs."""
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
    """A prefix of a solution and its Q (PQM)."""

    data: ClassVar[Data] = "value"
    problem: Text
    completion: Text = Field(min_length=1)
    value: Value
    depth: int = Field(1, ge=1)
    """Number of steps in the completion."""


ROWS: dict[Data, type[Row]] = {
    row.data: row for row in (SftRow, PreferenceRow, OutcomeRow, ValueRow)
}


def rows_of(curated: Curated, data: Data, step_format: StepFormat = FENCED) -> Iterator[Row]:
    """The rows of one kind of data, in the order of the run's problems."""
    row_functions = {
        "sft": _sft_rows,
        "preference": _preference_rows,
        "outcome": _outcome_rows,
        "value": _value_rows,
    }
    return row_functions[data](curated, step_format)


def _sft_rows(curated: Curated, step_format: StepFormat) -> Iterator[Row]:
    for solution in curated.solutions:
        question, steps = solution.trajectory.question, solution.trajectory.steps
        yield SftRow(
            prompt=prompt_text(question),
            question=question.shown,
            format=step_format.name,
            completion=solution_text(steps, step_format),
            outputs=output_spans(steps, step_format),
            answer=solution.trajectory.answer or "",
            mean_q=solution.mean_q,
            min_q=solution.min_q,
            problem=question.id,
            source=curated.sources.get(question.id),
            strategy=solution.last_node.strategy,
            node=solution.last_node.node,
        )


def _preference_rows(curated: Curated, step_format: StepFormat) -> Iterator[Row]:
    for selected in curated.pairs:
        pair = selected.pair
        prefix, chosen, rejected = pair_texts(pair, step_format)
        yield PreferenceRow(
            prompt=prompt_text(pair.question) + prefix,
            question=pair.question.shown,
            format=step_format.name,
            prefix=prefix,
            chosen=chosen,
            rejected=rejected,
            kind=selected.kind,
            depth=selected.depth,
            q_chosen=pair.q_chosen,
            q_rejected=pair.q_rejected,
            weight=pair.weight,
            problem=pair.question.id,
            source=curated.sources.get(pair.question.id),
            strategy=selected.chosen.strategy,
            node=selected.node,
            chosen_node=selected.chosen.node,
            rejected_node=selected.rejected.node,
            rejected_strategy=selected.rejected.strategy,
        )


def _outcome_rows(curated: Curated, step_format: StepFormat) -> Iterator[Row]:
    for outcome in curated.outcomes:
        question = outcome.trajectory.question
        yield OutcomeRow(
            prompt=prompt_text(question),
            question=question.shown,
            format=step_format.name,
            completion=solution_text(outcome.trajectory.steps, step_format),
            label=outcome.right,
            problem=question.id,
            source=curated.sources.get(question.id),
            strategy=outcome.last_node.strategy,
            node=outcome.last_node.node,
        )


def _value_rows(curated: Curated, step_format: StepFormat) -> Iterator[Row]:
    for prefix in curated.values:
        yield ValueRow(
            prompt=prompt_text(prefix.question),
            question=prefix.question.shown,
            format=step_format.name,
            completion=solution_text(prefix.steps, step_format),
            value=prefix.q,
            depth=len(prefix.steps),
            problem=prefix.question.id,
            source=curated.sources.get(prefix.question.id),
            strategy=prefix.last_node.strategy,
            node=prefix.last_node.node,
        )


R = TypeVar("R", bound=BaseModel)
PromptMode = Literal["auto", "chat", "completion"]
"""How prompts are rendered: with the model's chat template, as plain text, or chosen from the
model."""


def solution_row(
    question: Question, steps: Sequence[Step], step_format: StepFormat = FENCED
) -> SftRow:
    """A training row for one solution."""
    return SftRow(
        prompt=prompt_text(question),
        question=question.shown,
        format=step_format.name,
        completion=solution_text(steps, step_format),
        outputs=tuple(output_spans(steps, step_format)),
        problem=question.id,
    )


def output_spans(steps: Sequence[Step], step_format: StepFormat) -> list[tuple[int, int]]:
    """Spans of program output in a solution's text, as (start, end) in characters."""
    spans: list[tuple[int, int]] = []
    start = 0
    for segment in segments(steps, step_format):
        end = start + len(segment.text)
        if not segment.trained:
            spans.append((start, end))
        start = end
    return spans


def annotated_rows(
    problems: Iterable[AnnotatedProblem], step_format: StepFormat = FENCED
) -> tuple[list[SftRow], dict[str, int]]:
    """Rows of annotated solutions (see `problems.annotated`), and the number left out per
    reason."""
    rows: list[SftRow] = []
    left_out: Counter[str] = Counter()
    for problem in problems:
        parsed = parse_solution(problem.question, problem.solution, problem.answer)
        if parsed.reason is None:
            question = Question(problem.id or question_id(problem.question), problem.question)
            rows.append(solution_row(question, parsed.steps, step_format))
        else:
            left_out[parsed.reason] += 1
    return rows, dict(left_out)


def for_model(rows: Sequence[R], renderer: Renderer) -> list[R]:
    """Rows with their prompts rendered for a model. Solutions also get the end-of-turn marker.

    Rows without a separate question are returned unchanged.
    """
    return [_for_model(row, renderer) for row in rows]


def _for_model(row: R, renderer: Renderer) -> R:
    if not isinstance(row, Row) or not row.question:
        return row
    prefix = row.prefix if isinstance(row, PreferenceRow) else ""
    update = {"prompt": rendered_prompt(renderer, row.question, prefix)}
    if isinstance(row, SftRow):
        update["completion"] = row.completion + renderer.end_of_turn
    return row.model_copy(update=update)


def render_rows(rows: Sequence[R], base: str, mode: PromptMode) -> tuple[list[R], dict[str, str]]:
    """Rows rendered for a base model, and the description of the rendering for its checkpoint.

    Raises `InputError` as `renderer_for_rows`, or if the tokenizer cannot be loaded.
    """
    from rstar_math.models.loading import convert_load_errors, load_tokenizer

    with convert_load_errors(base):
        tokenizer = load_tokenizer(base)
    renderer = renderer_for_rows(rows, tokenizer, mode)
    return for_model(rows, renderer), renderer.description


def renderer_for_rows(rows: Sequence[BaseModel], tokenizer: Any, mode: PromptMode) -> Renderer:
    """The renderer for training a model with this tokenizer on these rows.

    "auto" is chat if the tokenizer has a chat template and every row has a separate question. The
    step format is that of the rows. Raises `InputError` if the rows mix step formats, or for "chat"
    if the template or a question is missing.
    """
    data_rows = [row for row in rows if isinstance(row, Row)]
    formats = {row.format for row in data_rows}
    if len(formats) > 1:
        raise InputError(
            f"The rows mix the step formats {', '.join(sorted(formats))}; curate all runs with the "
            "same curation.format."
        )
    template = prompting_of_tokenizer(tokenizer, "the base model").template
    chat_possible = template is not None and all(row.question for row in data_rows)
    if mode == "chat" and not chat_possible:
        raise InputError(
            "mode=chat needs a base model with a chat template and rows written by rstar curate; "
            "set mode=completion."
        )
    return make_renderer(
        prompt=TRAINED,
        step_format=formats.pop() if formats else "tags",
        mode="template" if chat_possible and mode != "completion" else "completion",
        template=template,
    )


def read_rows(path: Path, model: type[R]) -> list[R]:
    """The rows of a JSONL file, plain or gzipped.

    Raises `InputError` if the file cannot be read or has no rows, and for the first invalid line.
    """
    rows: list[R] = []
    try:
        for number, line in iter_lines(path):
            if line.strip():
                rows.append(_parse_row(line, model, f"{path}, line {number}"))
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read ({reason}); give another file.") from error
    if not rows:
        raise InputError(f"{path} has no rows to train on; curate a run that gives some.")
    return rows


def _parse_row(line: bytes, model: type[R], place: str) -> R:
    try:
        return model.model_validate(json.loads(line))
    except ValidationError as error:
        raise InputError(
            f"{place}: {explain(error).message}; create the file with rstar curate."
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{place} is not JSON ({error}); create the file with rstar curate."
        ) from None


def fingerprint(rows: Iterable[BaseModel]) -> str:
    """A hash of the rows in order. Checkpoints record it as the training data."""
    digest = blake2b(digest_size=16)
    for row in rows:
        digest.update(row.model_dump_json().encode("utf-8", "replace") + b"\n")
    return digest.hexdigest()


def is_held_out(problem: str, share: float, seed: int) -> bool:
    """Whether a problem belongs to the held-out part, decided by its id and the seed alone.

    All rows of a problem thus go to the same part, in every round and every kind of data.
    """
    digest = blake2b(f"{seed}:{problem}".encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64
