"""The policy of five actions: what it asks for, how it votes, what it is sure of, and what it
makes of samples that are no step. The votes are worked out by hand."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.config import ActionsConfig
from rstar_math.costs import track_cost
from rstar_math.errors import ContextLengthError, ModelUnreachableError, RequestError
from rstar_math.policies.actions import ActionPolicy
from rstar_math.prompts.actions import ACTIONS, allowed_actions, effective_question
from rstar_math.prompts.subquestions import parse_subquestions, render_subquestions
from rstar_math.protocols import Completer
from rstar_math.testing import ScriptedCompleter
from rstar_math.types import Cost, Question, Step
from tests.unit.test_actions import AGAIN, ANEW, APPLES, FIRST, LAST, MIXED, REST, STATED, THOUGHT

CONFIG = ActionsConfig(
    votes=6,
    sub_votes=4,
    thought_tokens=10,
    question_tokens=11,
    answer_tokens=30,
    solution_tokens=31,
)
SUB = "How many apples has he at first?"
OWN = "Now we can answer the question: How many apples are left?"


async def by_text(answers: Sequence[str]) -> list[int]:
    """Answers are equal if they are so as numbers or as text: 10 and 10.0 are."""
    keys = [str(float(a)) if a.replace(".", "", 1).isdigit() else a for a in answers]
    return [list(dict.fromkeys(keys)).index(key) for key in keys]


def action(prompt: str) -> str:
    """What a prompt asks for."""
    block = prompt.rpartition("\n\n")[2]
    if prompt.endswith("Condition 1:"):
        return "A5"
    if block.startswith("Problem: "):
        return "asked" if prompt.endswith("Question:") else "A3"
    return "A1" if "\nSteps:\n" in block else "chain"


def scripted(**texts: Sequence[str]) -> ScriptedCompleter:
    """Answers with the texts of what is asked for; cuts off at n."""
    return ScriptedCompleter(lambda prompt, n, seed: texts.get(action(prompt), ()))


def propose(
    completer: Completer,
    prefix: Sequence[Step] = (),
    *,
    allowed: str = "A1 A2 A3 A4 A5",
    depth: int = 5,
    k: int = 3,
    seed: int = 7,
) -> list[Step]:
    config = CONFIG.model_copy(update={"enabled": tuple(allowed.split())})
    policy = ActionPolicy(completer, config, group=by_text, max_depth=depth)
    return asyncio.run(policy.propose(APPLES, prefix, k, seed=seed))


def test_the_rest_of_the_solution_is_the_first_sample_of_the_majority() -> None:
    texts = (
        " He has 8. The answer is 8.",
        " Left are 12 - 2. The answer is 10.",
        " I cannot say.",
        " word" * 40,
        " Another way. The answer is 10.0.",
        " The answer is 9.\n\nQuestion: What else?",
    )
    with track_cost() as cost:
        steps = propose(scripted(chain=texts), allowed="A2")
    assert steps == [
        Step(prose=texts[1].strip(), kind="A2", answer="10", confidence=2 / 4),
    ]
    assert (cost.calls, cost.samples, cost.truncated, cost.malformed) == (1, 6, 1, 1)


def test_of_equally_many_votes_the_first_seen_wins() -> None:
    texts = [f"The answer is {answer}." for answer in (3, 5, 5, 3)]
    [step] = propose(scripted(chain=texts), allowed="A2")
    assert (step.answer, step.confidence) == ("3", 0.5)


def test_nothing_is_proposed_where_no_sample_states_an_answer() -> None:
    with track_cost() as cost:
        assert propose(scripted(chain=["Who knows?"] * 6), allowed="A2") == []
    assert cost.malformed == 6


def test_each_sub_question_is_put_to_its_own_vote() -> None:
    completer = ScriptedCompleter(
        lambda prompt, n, seed: {
            "asked": [f" {SUB}", f"  {SUB} \n", f" {OWN}", " One too many?"],
            "A3": [" It is 10. The answer is 10.", " No, 12. The answer is 12."] * 3
            if OWN in prompt
            else [" He has 7. The answer is 7.", *[" The answer is 12."] * 9],
        }[action(prompt)]
    )
    steps = propose(completer, [ANEW], allowed="A3")
    assert steps == [
        Step(prose=f"{SUB}\nAnswer: The answer is 12.", kind="A3", confidence=3 / 4),
        Step(
            prose=f"{OWN}\nAnswer: It is 10. The answer is 10.",
            kind="A3",
            answer="10",
            confidence=3 / 6,
        ),
    ]
    asked, *votes = completer.requests
    assert (asked.n, asked.max_tokens, asked.stop) == (3, 11, ("\n",))
    assert [(r.n, r.max_tokens, r.prompt.rpartition("\nQuestion: ")[2]) for r in votes] == [
        (4, 30, f"{SUB}\nAnswer:"),
        (6, 30, f"{OWN}\nAnswer:"),
    ]
    assert all(effective_question(APPLES, [ANEW]).text in r.prompt for r in completer.requests)
    assert not any(APPLES.text in r.prompt for r in completer.requests)


def test_the_last_step_asks_the_problems_own_question() -> None:
    completer = scripted(A3=["It is 10. The answer is 10."] * 6)
    steps = propose(completer, [FIRST], allowed="A3", depth=2)
    assert [(s.prose, s.answer, s.confidence) for s in steps] == [
        (f"{OWN}\nAnswer: It is 10. The answer is 10.", "10", 1.0)
    ]
    assert [r.n for r in completer.requests] == [6]


def test_an_answer_given_again_goes_on() -> None:
    texts = ["3 + 4 = 7. The answer is 7.", *["3 * 4 = 12. The answer is 12."] * 8]
    completer = scripted(chain=texts)
    steps = propose(completer, [ANEW, FIRST], allowed="A4")
    assert steps == [Step(prose=texts[1], kind="A4", confidence=3 / 4)]
    [request] = completer.requests
    assert (request.n, request.max_tokens) == (4, 31)


def test_a_rephrasing_is_one_sample() -> None:
    text = " Tim has 3 bags.\nCondition 2: He eats 2.\nQuestion: How many are left?\n\nProblem: No"
    completer = scripted(A5=[text])
    [step] = propose(completer, allowed="A5")
    assert (step.kind, step.answer, step.confidence) == ("A5", None, None)
    assert step.prose.endswith("Condition 2: He eats 2.\nQuestion: How many are left?")
    [request] = completer.requests
    assert (request.n, request.max_tokens) == (1, 30)


@pytest.mark.parametrize(
    ("allowed", "shares"),
    [
        # two of the four votes for the rest of the solution agree with "10", none with "9"
        ("A1 A2", [None, 2 / 4, 0.0]),
        # of the two thoughts with an answer one agrees with each
        ("A1", [None, 1 / 2, 1 / 2]),
    ],
)
def test_how_sure_a_thought_is_that_ends_its_path(
    allowed: str, shares: Sequence[float | None]
) -> None:
    rest = [f"The answer is {answer}." for answer in (8, 10, "10.0", 12)]
    thoughts = ["He eats 2.", "The answer is 10.", "So the answer is 9."]
    steps = propose(scripted(A1=thoughts, chain=rest), [THOUGHT], allowed=allowed)
    assert [s.confidence for s in steps if s.kind == "A1"] == shares
    assert [s.answer for s in steps if s.kind == "A1"] == [None, "10", "9"]


def test_votes_that_came_to_nothing_leave_thoughts_to_each_other() -> None:
    thoughts = ["The answer is 10.", "It is so: the answer is 10.0.", "The answer is 9."]
    steps = propose(scripted(A1=thoughts, chain=["Who knows?"] * 6), allowed="A1 A2")
    assert [s.confidence for s in steps] == [2 / 3, 2 / 3, 1 / 3]


def test_all_legal_actions_are_asked_side_by_side_each_with_its_own_seed() -> None:
    waiting = 0
    most = 0
    inner = scripted(
        A1=["He has 12.", "He eats 2."],
        chain=["The answer is 10."] * 6,
        asked=[SUB, OWN],
        A3=["The answer is 12."] * 6,
    )

    class Slow:
        async def complete(self, prompt: str, **options: object) -> object:
            nonlocal waiting, most
            waiting += 1
            most = max(most, waiting)
            await asyncio.sleep(0)
            waiting -= 1
            return await inner.complete(prompt, **options)  # type: ignore[arg-type]

    steps = propose(Slow(), MIXED, depth=9)  # type: ignore[arg-type]
    assert [step.kind for step in steps] == ["A1", "A1", "A2", "A3", "A3", "A4"]
    assert most == 4
    assert len({request.seed for request in inner.requests}) == len(inner.requests) == 6
    again = [request.seed for request in inner.requests]
    propose(inner, MIXED, depth=9, seed=8)
    assert not {request.seed for request in inner.requests[6:]} & set(again)


@pytest.mark.parametrize("end", [REST, STATED, LAST])
def test_nothing_is_asked_after_an_end(end: Step) -> None:
    completer = scripted()
    assert propose(completer, [THOUGHT, end]) == []
    assert propose(completer, [FIRST, AGAIN, THOUGHT], depth=3) == []
    assert completer.requests == []


class Failing:
    """Fails at some of what is asked for; has no thought and no other trouble."""

    def __init__(self, error: Exception, *actions: str) -> None:
        self._error, self._actions = error, actions
        self._inner = scripted(A1=["He has 12."], chain=["The answer is 10."] * 6)

    async def complete(self, prompt: str, **options: object) -> object:
        if action(prompt) in self._actions:
            raise self._error
        return await self._inner.complete(prompt, **options)  # type: ignore[arg-type]


def test_an_action_that_cannot_be_served_leaves_the_others() -> None:
    for error in (ContextLengthError("too long"), RequestError("no")):
        steps = propose(Failing(error, "chain", "asked"), [FIRST])  # type: ignore[arg-type]
        assert [step.prose for step in steps] == ["He has 12."]
        with pytest.raises(type(error)):
            propose(Failing(error, "A1", "chain"), [THOUGHT])  # type: ignore[arg-type]
    with pytest.raises(ModelUnreachableError):
        propose(Failing(ModelUnreachableError("gone"), "A1"))  # type: ignore[arg-type]


TEXTS = st.sampled_from(
    [
        "He has 12.",
        "The answer is 10.",
        " It is so. The answer is 9.",
        f" {SUB}",
        f" {OWN}",
        " Tim has 3.\nQuestion: How many?",
        "",
        " word" * 40,
        "One.\nTwo.",
        "Question: What?",
    ]
)
PATHS = st.sampled_from([[], [ANEW], [THOUGHT], [FIRST], [FIRST, AGAIN], MIXED, [LAST], [REST]])


@given(
    st.lists(TEXTS, min_size=1, max_size=8),
    PATHS,
    st.sets(st.sampled_from(list(ACTIONS)), min_size=1),
    st.integers(1, 4),
    st.integers(1, 5),
)
def test_only_legal_steps_are_proposed_and_the_same_for_the_same_arguments(
    texts: list[str], prefix: list[Step], allowed: set[str], k: int, depth: int
) -> None:
    def answer(prompt: str, n: int, seed: int) -> list[str]:
        return [texts[(seed + at) % len(texts)] for at in range(n)]

    def once() -> tuple[list[Step], Cost]:
        with track_cost() as cost:
            steps = propose(
                ScriptedCompleter(answer), prefix, allowed=" ".join(allowed), depth=depth, k=k
            )
        return steps, cost

    steps, cost = once()
    assert (steps, cost) == once()
    kinds = [step.kind for step in steps]
    assert set(kinds) <= set(allowed_actions(prefix, tuple(allowed), depth=depth))
    assert all(kinds.count(kind) <= (k if kind in ("A1", "A3") else 1) for kind in kinds)
    for step in steps:
        voted = step.kind in ("A2", "A3", "A4") or step.answer is not None
        assert (step.confidence is not None) is voted
        assert 0.0 <= (step.confidence or 0.0) <= 1.0
        assert step.answer is None or step.kind in ("A1", "A2", "A3")
        if step.kind == "A3":
            question: Question = effective_question(APPLES, prefix)
            [parsed] = parse_subquestions(question, render_subquestions([step]))
            assert (parsed.prose, parsed.answer) == (step.prose, step.answer)
