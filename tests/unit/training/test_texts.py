"""Training text: the same text as at inference, and nobody is trained on what a program printed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.config import PolicyConfig
from rstar_math.errors import InputError
from rstar_math.models.prompting import Prompting, renderer_for, scorer_renderer
from rstar_math.prompts import FENCED, TAGS
from rstar_math.prompts.chat_templates import ChatTemplate
from rstar_math.prompts.templates import Segment, pair_texts, prompt_text, segments, solution_text
from rstar_math.training.rows import (
    PreferenceRow,
    SftRow,
    for_model,
    renderer_for_rows,
    solution_row,
)
from rstar_math.types import Execution, ExecutionStatus, Question, Step, StepPair

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QUESTION = Question("q", "How many?")
OK = Execution(ExecutionStatus.OK, "7\n")
FAILED = Execution(ExecutionStatus.ERROR, "", "NameError", "name 'x' is not defined")

texts = st.text(max_size=12) | st.sampled_from(
    ["</output>\n", "<output>\n", "<code/>\n", "<step/>\n", "<code>\n", "```\n", "", "\n"]
)
runs = st.none() | st.builds(Execution, st.sampled_from(ExecutionStatus), texts)
any_step = st.builds(
    Step, texts, texts, st.sampled_from(["step", "code", "answer"]), execution=runs
)
any_steps = st.lists(any_step, max_size=7)


@given(any_steps)
def test_the_pieces_joined_are_what_the_model_is_shown(steps: list[Step]) -> None:
    assert "".join(piece.text for piece in segments(steps)) == TAGS.render(steps)
    assert solution_text(steps) == TAGS.render(steps)


@given(any_steps)
def test_what_was_printed_is_left_out_of_training_and_nothing_else(steps: list[Step]) -> None:
    pieces = segments(steps)
    printed = [piece.text for piece in pieces if not piece.trained]
    assert len(printed) == sum(step.kind == "code" for step in steps)
    assert all(text.startswith("<output>\n") and text.endswith("</output>\n") for text in printed)
    written = "".join(piece.text for piece in pieces if piece.trained)
    marks = sum(len(f"<{step.kind}/>\n") for step in steps)
    opened = sum(
        step.kind != "answer" and (index == 0 or steps[index - 1].kind == "code")
        for index, step in enumerate(steps)
    )
    assert len(written) == sum(len(s.text) for s in steps) + marks + opened * len("<code>\n")


def test_a_solution_in_pieces() -> None:
    steps = [
        Step(prose="# a\n", code="x = 7\n", execution=Execution(ExecutionStatus.OK)),
        Step(code="print(x)\n", kind="code", execution=OK),
        Step(prose="It is \\boxed{7}.\n", kind="answer", answer="7"),
    ]
    assert segments(steps) == [
        Segment("<code>\n# a\nx = 7\n<step/>\nprint(x)\n<code/>\n", trained=True),
        Segment("<output>\n7\n</output>\n", trained=False),
        Segment("It is \\boxed{7}.\n<answer/>\n", trained=True),
    ]


def test_an_error_that_the_model_was_shown_is_not_trained_on() -> None:
    pieces = segments([Step(code="print(x)\n", kind="code", execution=FAILED)])
    assert pieces[1] == Segment("<output>\nNameError: name 'x' is not defined\n</output>\n", False)


def test_an_empty_solution_has_no_pieces() -> None:
    assert segments([]) == []
    assert solution_text([]) == ""


@given(any_steps, any_steps, any_steps)
def test_both_sides_of_a_pair_go_on_from_one_text(
    prefix: list[Step], chosen: list[Step], rejected: list[Step]
) -> None:
    pair = StepPair(QUESTION, (*prefix,), (*chosen,), (*rejected,), 1.0, -1.0)
    start, good, bad = pair_texts(pair)
    assert start == TAGS.render(prefix)
    assert start + good == TAGS.render(prefix + chosen)
    assert start + bad == TAGS.render(prefix + rejected)


def test_steps_of_other_grammars_are_refused() -> None:
    with pytest.raises(InputError, match="'A3' has no training text"):
        segments([Step(prose="What?", kind="A3")])


class Tokenizer:
    """What the trainers ask of a tokenizer, with a chat template."""

    chat_template = CHATML
    bos_token, eos_token = None, "<|im_end|>"


def test_training_text_in_chat_is_the_prompt_of_inference_and_the_end_of_the_turn() -> None:
    steps = [
        Step(prose="# a\n", code="x = 7\n", execution=Execution(ExecutionStatus.OK)),
        Step(code="print(x)\n", kind="code", execution=OK),
        Step(prose="It is \\boxed{7}.", kind="answer", answer="7"),
    ]
    row = solution_row(QUESTION, steps)
    renderer = renderer_for_rows([row], Tokenizer(), "auto")
    (ready,) = for_model([row], renderer)
    known = Prompting(template=ChatTemplate(CHATML), trained=renderer.description)
    asked = renderer_for(PolicyConfig(), known)
    for length in range(3):
        prompt = asked.prompt(QUESTION, steps[:length])
        assert (ready.prompt + ready.completion).startswith(prompt)
    assert ready.completion.endswith("It is \\boxed{7}.<|im_end|>")
    (start, end) = ready.outputs[0]
    assert ready.completion[start:end] == "```output\n7\n```\n"
    pair = StepPair(QUESTION, (*steps[:1],), (steps[1],), (steps[2],), 1.0, -1.0)
    prefix, chosen, rejected = pair_texts(pair, FENCED)
    (both,) = for_model(
        [
            PreferenceRow(
                prompt=prompt_text(QUESTION) + prefix,
                question=QUESTION.text,
                prefix=prefix,
                chosen=chosen,
                rejected=rejected,
                problem="q",
                format="fenced",
            )
        ],
        renderer,
    )
    scorer = scorer_renderer(known)
    assert both.prompt + both.chosen == scorer.question_prompt(QUESTION) + scorer.solution(
        steps[:2]
    )


def test_rows_without_a_question_are_trained_on_as_they_are() -> None:
    row = SftRow(prompt="Q: 1\n", completion="A: 1")
    renderer = renderer_for_rows([row], Tokenizer(), "auto")
    assert renderer.mode == "completion"
    assert for_model([row], renderer) == [row]
    with pytest.raises(InputError, match="completion"):
        renderer_for_rows([row], Tokenizer(), "chat")


def test_rows_of_two_formats_are_refused() -> None:
    rows = [SftRow(prompt="p", completion="c", format=name) for name in ("tags", "fenced")]
    with pytest.raises(InputError, match="fenced, tags"):
        renderer_for_rows(rows, Tokenizer(), "auto")
