"""Sub-questions as steps: what is rendered can be read back, the last one is found, and a policy
asks for them in one request."""

import asyncio
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.config import PolicyConfig
from rstar_math.costs import track_cost
from rstar_math.errors import InputError
from rstar_math.policies.completions import SubQuestionPolicy
from rstar_math.prompts.subquestions import (
    FINAL_PREFIX,
    STOPS,
    is_final_subquestion,
    last_sentence,
    opening,
    parse_subquestion,
    parse_subquestions,
    render_subquestions,
    subquestion_of,
    subquestion_prompt,
)
from rstar_math.testing import ScriptedCompleter
from rstar_math.types import Cost, Question, Step

APPLES = Question("q", "Tim has 3 bags of 4 apples. He eats 2. How many apples are left?")
FIRST = Step(
    prose="How many apples has he at first?\nAnswer: 3 * 4 = 12 apples. The answer is 12.",
    kind="A3",
)
LAST = Step(
    prose=f"{FINAL_PREFIX} How many apples are left?\nAnswer: 12 - 2 = 10. The answer is 10.",
    kind="A3",
    answer="10",
)

words = st.text(st.characters(blacklist_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1)
line = words.filter(lambda text: text == text.strip())
answers = st.lists(line.filter(lambda t: not t.startswith(("Question:", "Problem:"))), min_size=1)


@st.composite
def solutions(draw: st.DrawFn) -> list[Step]:
    """Steps as a policy makes them: sub-questions with answers, then perhaps the overall one."""
    steps: list[Step] = []
    for number in range(draw(st.integers(0, 4))):
        question = draw(line.filter(lambda text: not is_final_subquestion(APPLES, text)))
        answer = "\n".join(draw(answers))
        steps.append(Step(prose=f"{question}\nAnswer: {answer} The answer is {number}.", kind="A3"))
    if draw(st.booleans()):
        steps.append(LAST)
    return steps


@given(solutions())
def test_parse_is_the_inverse_of_render(steps: list[Step]) -> None:
    assert parse_subquestions(APPLES, render_subquestions(steps)) == steps


@given(solutions())
def test_a_step_is_read_from_the_text_that_render_shows_of_it(steps: list[Step]) -> None:
    for length, step in enumerate(steps):
        shown = render_subquestions(steps[:length]) + opening(APPLES)
        whole = render_subquestions(steps[: length + 1])
        assert whole.startswith(shown)
        assert parse_subquestion(APPLES, whole[len(shown) :], finished=True).step == step


@given(st.text())
def test_any_text_is_a_step_that_can_be_rendered_or_none(text: str) -> None:
    step = parse_subquestion(APPLES, text, finished=True).step
    if step is not None:
        assert parse_subquestions(APPLES, render_subquestions([step])) == [step]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (" \n", "empty"),
        (" How many apples has he at first?", "no sub-question with an answer"),
        (" How many?\nAnswer: ", "no sub-question with an answer"),
        ("\nAnswer: The answer is 3.", "no sub-question with an answer"),
        (" How many?\nIt is 12.", "no sub-question with an answer"),
        (" How many?\nAnswer: He has some.", "no answer stated"),
        (" One?\nAnswer: The answer is 1.\nQuestion: Two?", "goes on after its answer"),
        (" One?\nAnswer: The answer is 1.\n\nWell done!", "goes on after its answer"),
        (f" {FINAL_PREFIX} How many?\nAnswer: I cannot say.", "no answer stated"),
    ],
)
def test_a_sample_that_is_no_step_says_why(text: str, problem: str) -> None:
    sample = parse_subquestion(APPLES, text, finished=True)
    assert (sample.step, sample.problem) == (None, problem)


def test_a_sample_cut_off_is_not_used() -> None:
    sample = parse_subquestion(APPLES, FIRST.prose, finished=False)
    assert (sample.step, sample.problem) == (None, "cut off at the token limit")


@pytest.mark.parametrize(
    ("subquestion", "last"),
    [
        ("How many apples has he at first?", False),
        ("How many apples does he eat?", False),
        (f"{FINAL_PREFIX} How many apples are left?", True),
        ("now we can  ANSWER: what remains?", True),
        ("How many apples are left?", True),
        ("So how many apples  are left", True),
        ("How many apples are left in each bag?", False),
        ("Can we now answer the question?", False),
    ],
)
def test_the_problems_own_question_ends_a_path(subquestion: str, last: bool) -> None:
    assert is_final_subquestion(APPLES, subquestion) is last
    step = parse_subquestion(
        APPLES, f" {subquestion}\nAnswer: That is 10. The answer is 10.\n", finished=True
    ).step
    assert step is not None
    assert step.answer == ("10" if last else None)
    assert (step.kind, step.code, subquestion_of(step)) == ("A3", "", subquestion)


def test_the_last_sentence_of_a_problem() -> None:
    assert last_sentence(APPLES) == "How many apples are left?"
    assert last_sentence(Question("q", "A rope is 2.5 m long.\nHow\nlong is it? ")) == (
        "How long is it?"
    )
    assert not is_final_subquestion(Question("q", ""), "How many?")
    assert not is_final_subquestion(
        Question("q", "He has 3. How many?"), "He is how old and somehow many?"
    )


@pytest.mark.parametrize(
    "text",
    [
        "How many?\nAnswer: The answer is 1.\n",
        "Question: How many?\nAnswer: The answer is 1.",
        "Question: How many?\n",
        "Question:  How many?\nAnswer: The answer is 1.\n",
        render_subquestions([LAST, FIRST]),
    ],
)
def test_parse_refuses_what_render_cannot_have_written(text: str) -> None:
    with pytest.raises(InputError):
        parse_subquestions(APPLES, text)


def test_the_examples_reckon_right_and_end_in_their_problems_question() -> None:
    text = subquestion_prompt(APPLES)
    assert text.endswith(f"\n\nProblem: {APPLES.text}\n")
    *examples, _ = text.split("\n\n")
    assert len(examples) == 4
    for example in examples:
        problem, _, solution = example.partition("\n")
        question = Question("q", problem.removeprefix("Problem: "))
        steps = parse_subquestions(question, solution + "\n")
        assert 2 <= len(steps) <= 4
        assert subquestion_of(steps[-1]) == f"{FINAL_PREFIX} {last_sentence(question)}"
        for step in steps:
            *_, (sum_, result) = re.findall(r"(\d[\d +*/-]*\d) = (\d+)", step.prose)
            assert eval(sum_) == int(result)
            assert step.prose.endswith(f"The answer is {result}.")


def ask(completer: ScriptedCompleter, prefix: Sequence[Step], **options: int) -> list[Step]:
    policy = SubQuestionPolicy(completer, PolicyConfig(max_step_tokens=20), **options)
    return asyncio.run(policy.propose(APPLES, prefix, 4, seed=7))


def test_the_policy_asks_once_and_reads_each_sample() -> None:
    def answer(prompt: str, n: int, seed: int) -> list[str]:
        return [
            f" {FIRST.prose}\nQuestion: And then?",
            f" {LAST.prose}\n\nProblem: Another one.",
            " How many",
            " word" * 50,
        ]

    completer = ScriptedCompleter(answer)
    with track_cost() as cost:
        steps = ask(completer, [FIRST])
    assert steps == [FIRST, LAST]
    assert (cost.calls, cost.samples, cost.truncated, cost.malformed) == (1, 4, 1, 1)
    [request] = completer.requests
    assert request.prompt == (
        subquestion_prompt(APPLES) + render_subquestions([FIRST]) + "Question:"
    )
    assert (request.n, request.stop, request.seed) == (4, STOPS, 7)
    assert (request.max_tokens, request.temperature) == (40, 0.7)
    ask(completer, [], max_tokens=9)
    assert completer.requests[-1].max_tokens == 9


def test_at_the_depth_limit_only_the_problems_question_is_left() -> None:
    def answer(prompt: str, n: int, seed: int) -> list[str]:
        if prompt.endswith("Answer:"):
            return [" 12 - 2 = 10. The answer is 10.\n", " I cannot say."]
        return [f" {FIRST.prose}"]

    completer = ScriptedCompleter(answer)
    with track_cost() as cost:
        assert ask(completer, [], max_depth=2) == [FIRST]
        assert ask(completer, [FIRST], max_depth=2) == [LAST]
        assert ask(completer, [FIRST, FIRST], max_depth=2) == [LAST]
    assert cost == Cost(
        calls=3,
        samples=5,
        malformed=2,
        prompt_tokens=cost.prompt_tokens,
        sampled_tokens=cost.sampled_tokens,
    )
