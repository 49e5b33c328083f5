"""rStar's five actions as text: what may follow what, what a path says, what samples hold, and the
prompts, word for word. After a change that is meant: RSTAR_GOLDEN=write pytest on this file, and
look at the difference."""

import os
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.prompts import ParsedSample
from rstar_math.prompts.action_parsing import (
    parse_answer,
    parse_rephrasing,
    parse_subquestion,
    parse_thought,
    states_answer,
)
from rstar_math.prompts.actions import (
    ACTIONS,
    allowed_actions,
    answer_prompt,
    completion_prompt,
    effective_question,
    final_subquestion,
    reanswer_prompt,
    rephrase_prompt,
    solution_segments,
    subquestion_prompt,
    thought_prompt,
    verify_prompt,
    with_revised_answers,
)
from rstar_math.prompts.families import ActionPrompts, chain_prompt, load_action_prompts
from rstar_math.types import Question, Step

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "actions"
APPLES = Question("q", "Tim has 3 bags of 4 apples. He eats 2. How many apples are left?")
THOUGHT = Step(prose="He has 3 * 4 = 12 apples.", kind="A1")
STATED = Step(prose="The answer is 10.", kind="A1", answer="10")
REST = Step(prose="He eats 2 of them.\nSo 10 are left. The answer is 10.", kind="A2", answer="10")
FIRST = Step(
    prose="How many apples has he at first?\nAnswer: He has 3 + 4 = 7 apples. The answer is 7.",
    kind="A3",
)
SECOND = Step(
    prose="How many apples does he eat?\nAnswer: So the answer is 2.", kind="A3", confidence=0.5
)
LAST = Step(
    prose="Now we can answer the question: How many apples are left?\n"
    "Answer: There are 12 - 2 = 10 apples left. The answer is 10.",
    kind="A3",
    answer="10",
)
AGAIN = Step(prose="He has 3 * 4 = 12 apples. The answer is 12.", kind="A4", confidence=0.9)
ANEW = Step(
    prose="Condition 1: Tim has 3 bags.\nCondition 2: Each bag holds 4 apples.\n"
    "Condition 3: Tim eats 2 apples\nQuestion: How many apples has he now?",
    kind="A5",
)
MIXED = [ANEW, FIRST, AGAIN, SECOND]
"""A path of three kinds, whose next step may be any but A5."""

FOLLOWS = [
    # after, with steps to spare, for the last step
    (None, "A1 A2 A3 A5", "A2 A3"),
    (THOUGHT, "A1 A2", "A2"),
    (FIRST, "A1 A2 A3 A4", "A2 A3"),
    (AGAIN, "A1 A2 A3", "A2 A3"),
    (ANEW, "A1 A2 A3", "A2 A3"),
    (REST, "", ""),
    (STATED, "", ""),
    (LAST, "", ""),
]


def school() -> ActionPrompts:
    return load_action_prompts("school")


def golden(name: str, text: str) -> None:
    """The text is that of a golden file."""
    path = GOLDEN / name
    if os.environ.get("RSTAR_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text + "\n"


@pytest.mark.parametrize(("step", "spare", "last"), FOLLOWS)
def test_what_may_follow_a_step(step: Step | None, spare: str, last: str) -> None:
    prefix = [step] if step else []
    room = len(prefix) + 1
    assert " ".join(allowed_actions(prefix, tuple(ACTIONS), depth=room + 1)) == spare
    assert " ".join(allowed_actions(prefix, tuple(ACTIONS), depth=room)) == last
    assert allowed_actions(prefix, tuple(ACTIONS), depth=room - 1) == ()


def test_what_may_follow_for_every_choice_of_actions() -> None:
    rows = []
    for step, *_ in FOLLOWS[:5]:
        for room in (2, 1, 0):
            for size in range(1, 6):
                for allowed in combinations(ACTIONS, size):
                    prefix = [step] if step else []
                    found = allowed_actions(prefix, allowed, depth=len(prefix) + room)
                    after = step.kind if step else "root"
                    rows.append(
                        f"after {after}, {room} more, of {' '.join(allowed)}: "
                        f"{' '.join(found) or 'none'}"
                    )
    assert len(rows) == 5 * 3 * 31
    golden("legal.txt", "\n".join(rows))


@pytest.mark.parametrize(
    ("allowed", "prefix", "depth", "expected"),
    [
        (["A3"], [], 5, "A3"),
        (["A5", "A3"], [], 5, "A3 A5"),
        (["A4"], [], 5, ""),
        (["A1", "A3"], [THOUGHT], 5, "A1"),
        (["A1", "A3"], [THOUGHT], 2, "A1"),
        (["A1", "A3"], [FIRST], 2, "A3"),
        (["A4", "A5"], [FIRST], 5, "A4"),
        (["A4", "A5"], [FIRST], 2, ""),
        (["A5"], [], 1, ""),
        (["A1", "A2", "A3", "A4", "A5"], [ANEW, FIRST], 3, "A2 A3"),
    ],
)
def test_actions_out_of_use_do_not_follow(
    allowed: Sequence[str], prefix: Sequence[Step], depth: int, expected: str
) -> None:
    assert " ".join(allowed_actions(prefix, allowed, depth=depth)) == expected


def test_a_rephrasing_is_the_question_from_then_on() -> None:
    assert effective_question(APPLES, []) is APPLES
    assert effective_question(APPLES, [FIRST, AGAIN]) is APPLES
    assert effective_question(APPLES, MIXED) == Question(
        "q",
        "Condition 1: Tim has 3 bags. Condition 2: Each bag holds 4 apples. "
        "Condition 3: Tim eats 2 apples. How many apples has he now?",
    )
    assert (
        final_subquestion(APPLES, MIXED)
        == "Now we can answer the question: How many apples has he now?"
    )


def test_an_answer_given_again_replaces_the_first() -> None:
    replaced = Step(prose=f"How many apples has he at first?\nAnswer: {AGAIN.prose}", kind="A3")
    assert with_revised_answers(MIXED) == [ANEW, replaced, SECOND]
    assert with_revised_answers([THOUGHT, REST]) == [THOUGHT, REST]


def test_the_units_of_a_solution() -> None:
    assert solution_segments(APPLES, []) == []
    assert solution_segments(APPLES, [ANEW]) == []
    assert solution_segments(APPLES, [*MIXED, LAST]) == [
        "He has 3 * 4 = 12 apples.",
        " How many apples does he eat?",
        " 2.",
        " There are 12 - 2 = 10 apples left.",
        " The answer is 10.",
    ]
    assert solution_segments(APPLES, [THOUGHT, REST]) == [
        "He has 3 * 4 = 12 apples.",
        " He eats 2 of them.",
        "\nSo 10 are left.",
        " The answer is 10.",
    ]
    decimals = Step(prose="It is 2.5 m (2 m + 0.5 m)\n\nThe answer is 2.5", kind="A2", answer="2.5")
    assert solution_segments(APPLES, [decimals]) == [
        "It is 2.5 m (2 m + 0.5 m)",
        "\n\nThe answer is 2.5",
    ]


@given(st.text())
def test_units_are_a_text_without_loss(text: str) -> None:
    units = solution_segments(APPLES, [Step(prose=text, kind="A2", answer="1")])
    assert "".join(units) == text.strip()
    assert all(unit.strip() for unit in units)


PROMPTS = {
    "A1": lambda: thought_prompt(school(), APPLES, MIXED),
    "A1-after-thoughts": lambda: thought_prompt(school(), APPLES, [THOUGHT, THOUGHT]),
    "A2": lambda: completion_prompt(school(), APPLES, MIXED),
    "A2-after-thoughts": lambda: completion_prompt(school(), APPLES, [THOUGHT]),
    "A3": lambda: subquestion_prompt(school(), APPLES, MIXED),
    "A3-answer": lambda: answer_prompt(school(), APPLES, MIXED, final_subquestion(APPLES, MIXED)),
    "A4": lambda: reanswer_prompt(school(), APPLES, MIXED),
    "A5": lambda: rephrase_prompt(school(), APPLES),
    "chain": lambda: chain_prompt(school(), APPLES, "He has 3 * 4 = 12 apples. "),
    "zero-shot": lambda: chain_prompt(school(), APPLES, shots=False),
    "verify": lambda: verify_prompt(school(), APPLES, [*MIXED, LAST]),
    "A2-yesno": lambda: completion_prompt(load_action_prompts("yesno"), APPLES, []),
    "A1-competition": lambda: thought_prompt(load_action_prompts("competition"), APPLES, [THOUGHT]),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_is_the_golden_one(name: str) -> None:
    golden(f"{name}.txt", PROMPTS[name]())


def test_what_a_last_sentence_says_is_not_lost_when_a_sub_question_is_asked_again() -> None:
    def shown(text: str) -> str:
        prompt = reanswer_prompt(school(), Question("q", text), [FIRST])
        return prompt.rpartition("Question: ")[2]

    asked = "How many apples has he at first?\nAnswer:"
    assert shown(APPLES.text) == f"Tim has 3 bags of 4 apples. He eats 2. {asked}"
    assert shown("He has 5. If he eats 2, what is left?") == (
        f"He has 5. If he eats 2, what is left? {asked}"
    )
    assert shown("What is left of 5?") == f"What is left of 5? {asked}"


@pytest.mark.parametrize(
    ("text", "prose", "answer"),
    [
        (" He has 12 apples. ", "He has 12 apples.", None),
        ("So 12  are left.", "So 12 are left.", None),
        ("The answer is 12.", "The answer is 12.", "12"),
        ("So the final answer is: $\\frac{1}{2}$.", None, "\\frac{1}{2}"),
        ("It is \\boxed{7}.", None, "7"),
        ("The answer is no.", None, "no"),
    ],
)
def test_a_thought_is_a_line_that_may_state_the_answer(
    text: str, prose: str | None, answer: str | None
) -> None:
    step = parse_thought(text, finished=True).step
    assert step is not None
    assert (step.kind, step.answer) == ("A1", answer)
    assert prose in (None, step.prose)


REWRITTEN = " Tim has 3 bags.\nCondition 2:  He eats 2. \nQuestion: How many?"


@pytest.mark.parametrize(
    ("sample", "problem"),
    [
        (parse_thought("He has", finished=False), "cut off at the token limit"),
        (parse_thought(" \n", finished=True), "empty"),
        (parse_thought("One.\nTwo.", finished=True), "goes on after its line"),
        (
            parse_thought("Question: Two?", finished=True),
            "a label in the place of a sentence",
        ),
        (parse_thought("The answer is", finished=True), "no answer stated"),
        (parse_subquestion("", finished=True), "empty"),
        (
            parse_subquestion("Answer: It is 3.", finished=True),
            "a label in the place of a sentence",
        ),
        (parse_answer("It is twelve.", kind="A2", finished=True), "no answer stated"),
        (parse_answer("It is 2.", kind="A2", finished=False), "cut off at the token limit"),
        (
            parse_answer("The answer is 1.\n\nMore", kind="A2", finished=True),
            "goes on after its answer",
        ),
        (parse_rephrasing("", finished=True), "empty"),
        (parse_rephrasing("He eats 2.", finished=True), "no list of"),
        (parse_rephrasing("He eats 2.\nHe has 3.\nQuestion: Who?", finished=True), "no list of"),
        (parse_rephrasing("He eats 2.\nCondition 2: He has 3.", finished=True), "no list of"),
        (parse_rephrasing(REWRITTEN.replace("\nQ", "\n\nQ"), finished=True), "goes on after"),
        (parse_rephrasing(REWRITTEN, finished=False), "cut off at the token limit"),
    ],
)
def test_a_sample_that_is_no_step_says_why(sample: ParsedSample, problem: str) -> None:
    assert sample.step is None
    assert (sample.problem or "").startswith(problem)


def test_a_rephrasing_is_read_line_by_line_up_to_its_question() -> None:
    prose = "Condition 1: Tim has 3 bags.\nCondition 2: He eats 2.\nQuestion: How many?"
    step = Step(prose=prose, kind="A5")
    assert parse_rephrasing(REWRITTEN, finished=True).step == step
    assert parse_rephrasing(f"{REWRITTEN}\nHint: Take away", finished=False).step == step


@given(st.text())
def test_any_text_is_a_step_or_has_a_problem(text: str) -> None:
    samples = [
        parse_thought(text, finished=True),
        parse_subquestion(text, finished=True),
        parse_answer(text, kind="A2", finished=True),
        parse_rephrasing(text, finished=True),
    ]
    for sample in samples:
        assert (sample.step is None) is (sample.problem is not None)
        if sample.step is not None:
            assert sample.step.prose == sample.step.prose.strip() != ""


@pytest.mark.parametrize(
    ("sentence", "final"),
    [
        ("The answer is 12.", True),
        ("So the answer is yes.", True),
        ("12 - 2 = 10, so the answer is 10.", True),
        ("Thus, the final answer is 7", True),
        ("Final Answer: The final answer is $\\boxed{8}$.", True),
        ("**Answer:** 5", True),
        ("The answer to the question is 5.", True),
        ("We want the answer: how many apples?", False),
        ("Her answer is not yet known.", False),
        ("The answer to this sub-question is 5, so now we go on.", False),
        ("The wrong answer is 12, so we go on.", False),
        ("He has 12 apples.", False),
    ],
)
def test_what_states_the_final_answer(sentence: str, final: bool) -> None:
    assert states_answer(sentence) == final
    sample = parse_thought(sentence, finished=True)
    assert sample.step is not None
    assert (sample.step.answer is not None) == final


def test_whoever_is_shown_all_but_the_last_unit_is_not_shown_the_answer() -> None:
    text = "He had 10 apples. 10 - 2 = 8. So the answer is \\boxed{8}. Let us check it. 8 + 2 = 10."
    units = solution_segments(Question("q", "How many?"), [Step(prose=text, kind="A2", answer="8")])
    assert "".join(units) == text
    assert units[:-1] == ["He had 10 apples.", " 10 - 2 = 8."]
