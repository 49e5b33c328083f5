"""A model that judges prefixes: what is asked, what is read, what it is worth and who pays."""

import asyncio
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.costs import track_cost
from rstar_math.errors import ContextLengthError, ModelError, ModelUnreachableError
from rstar_math.policies.self_evaluation import SelfEvaluator, SubquestionScorer
from rstar_math.prompts import TAGS
from rstar_math.prompts.templates import parse_useful, parse_verdict, useful_prompt, verdict_prompt
from rstar_math.protocols import Scorer
from rstar_math.testing import ScriptedCompleter
from rstar_math.types import Cost, Execution, ExecutionStatus, Question, Step
from tests.unit.toy import DirectExecutor

APPLES = Question("q", "Tim has 3 bags of 4 apples. He eats 2. How many apples are left?")
STEP = Step(prose="# Add.\n", code="x = 3 + 4\n")
CODE = Step(code="print(10)\n", kind="code", execution=Execution(ExecutionStatus.OK, "10\n"))
FIRST = Step(prose="How many at first?\nAnswer: 3 * 4 = 12. The answer is 12.", kind="A3")
OTHER = Step(prose="What colour are they?\nAnswer: Red. The answer is red.", kind="A3")


def score(scorer: Scorer, *prefixes: Sequence[Step]) -> list[float]:
    return asyncio.run(scorer.score(APPLES, prefixes))


def always(*texts: str) -> ScriptedCompleter:
    return ScriptedCompleter(lambda prompt, n, seed: texts)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (" 12 apples, as asked.\nVerdict (sure, likely or impossible): sure", 1.0),
        (" So far so good.\n VERDICT:  Likely.", 0.0),
        (" A mistake. Verdict: **impossible**", -1.0),
        (" Right.\nVerdict: sure\n<output>\n20\n</output>\nVerdict: likely", 1.0),
        (" Sure.", None),
        (" Verdict (sure, likely or impossible): not sure", None),
        (" Verdict: unlikely", None),
        (" Verdict: surely", None),
        (" Verdict: not impossible", None),
        (" It is impossible to say. Verdict:", None),
        ("", None),
    ],
)
def test_a_verdict_is_read_where_it_is_clear(text: str, value: float | None) -> None:
    assert parse_verdict(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [(" sure", 1.0), ("\nLikely, so far", 0.0), (" surely", None), (" not sure", None), ("", None)],
)
def test_a_verdict_alone_is_read_where_it_begins_the_text(text: str, value: float | None) -> None:
    assert parse_verdict(text, check=False) == value


@pytest.mark.parametrize(
    ("text", "useful"),
    [
        (" Yes", True),
        ("\nyes, because", True),
        (" **No**", False),
        (" NO.", False),
        (" None", None),
        (" Yesterday", None),
        (" It is", None),
        ("", None),
    ],
)
def test_yes_and_no_are_read_where_they_begin_the_text(text: str, useful: bool | None) -> None:
    assert parse_useful(text) is useful


@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    assert parse_verdict(text) in (1.0, 0.0, -1.0, None)
    assert parse_useful(text) in (True, False, None)


def test_the_prompt_shows_the_prefix_as_the_policy_wrote_it() -> None:
    completer = always("Verdict: sure")
    score(SelfEvaluator(completer, seed=5), [STEP, CODE])
    [request] = completer.requests
    assert request.prompt.endswith(
        f"\n\nQuestion: {APPLES.text}\n{TAGS.render([STEP, CODE])}Check:"
    )
    assert (request.n, request.stop, request.temperature) == (3, ("\n\n", "\nQuestion:"), 0.7)


def test_a_verdict_alone_takes_examples_without_a_check() -> None:
    completer = always(" sure\nand so on", " likely")
    assert score(SelfEvaluator(completer, check=False, max_tokens=8), [STEP]) == [0.5]
    [request] = completer.requests
    assert "Check:" not in request.prompt
    assert request.prompt.endswith("<step/>\nVerdict (sure, likely or impossible):")
    assert request.prompt.count("\nVerdict (") == 7
    assert (request.stop, request.max_tokens) == (("\n",), 8)


def test_the_judged_examples_show_what_their_programs_print() -> None:
    *examples, last = verdict_prompt(APPLES, []).split("\n\nQuestion: ")[1:]
    assert last == f"{APPLES.text}\nCheck:"
    worth = []
    for example in examples:
        solution, check = re.fullmatch(
            r"[^\n]+\n(<code>\n.*\n)(Check: [^\n]+\n[^\n]+)", example, re.DOTALL
        ).groups()  # type: ignore[union-attr]
        worth.append(parse_verdict(check))
        steps = TAGS.parse(solution)
        printed = ""
        for at, step in enumerate(steps):
            if step.code:
                run = asyncio.run(DirectExecutor().run(steps[:at], step))
                assert run.ok
                printed += run.stdout
        assert re.findall(r"<output>\n(.*?)</output>", solution, re.DOTALL) == [printed] * (
            "<output>" in solution
        )
    assert sorted(worth, key=str) == [-1.0, -1.0, 0.0, 0.0, 1.0, 1.0]


def test_the_useful_examples_are_half_yes() -> None:
    *examples, last = useful_prompt(APPLES, [FIRST, OTHER]).split("\n\nProblem: ")[1:]
    assert last == (
        f"{APPLES.text}\nQuestion: How many at first?\nNew question: What colour are they?\n"
        "Is the new question useful?"
    )
    said = [parse_useful(example.rpartition("?")[2]) for example in examples]
    assert (said.count(True), said.count(False)) == (3, 3)


@pytest.mark.parametrize(
    ("texts", "value"),
    [
        (["Verdict: sure", "Verdict: sure", "Verdict: sure"], 1.0),
        (["Verdict: sure", "Verdict: likely", "Verdict: impossible"], 0.0),
        (["Verdict: impossible", "Verdict: likely", "what?"], -0.5),
        (["Verdict: impossible"], -1.0),
        (["a " * 100 + "Verdict: sure", "Verdict: sure" + " b" * 100], 1.0),
    ],
)
def test_a_value_is_the_mean_of_what_can_be_read(texts: list[str], value: float) -> None:
    with track_cost() as cost:
        assert score(SelfEvaluator(always(*texts)), [STEP]) == [value]
    assert cost.unscorable == 0


def test_values_are_in_the_order_of_the_prefixes_and_seeds_come_from_content() -> None:
    def answer(prompt: str, n: int, seed: int) -> list[str]:
        return ["Verdict: sure" if "print(10)" in prompt else "Verdict: impossible"] * n

    completer = ScriptedCompleter(answer)
    scorer = SelfEvaluator(completer, seed=1)
    assert score(scorer, [STEP], [STEP, CODE], [STEP]) == [-1.0, 1.0, -1.0]
    first, second, third = (request.seed for request in completer.requests)
    assert first == third != second
    score(SelfEvaluator(completer, seed=2), [STEP])
    assert completer.requests[-1].seed != first
    assert score(scorer) == []


@pytest.mark.parametrize("kind", [SelfEvaluator, SubquestionScorer])
def test_a_prefix_too_long_or_unreadable_is_worth_nothing_and_counted(
    kind: type[SelfEvaluator] | type[SubquestionScorer],
) -> None:
    def answer(prompt: str, n: int, seed: int) -> list[str]:
        if "colour are they" in prompt:
            raise ContextLengthError("Too long.")
        return ["Verdict: sure", "Yes"] if "at first" in prompt else ["Who knows?"] * n

    with track_cost() as cost:
        values = score(kind(ScriptedCompleter(answer)), [FIRST], [FIRST, OTHER], [LEFT])
    assert values == [1.0, 0.0, 0.0]
    assert (cost.calls, cost.unscorable) == (2, 2)


LEFT = Step(prose="How many are left?\nAnswer: 10. The answer is 10.", kind="A3", answer="10")


def test_any_other_failure_of_the_model_is_raised() -> None:
    def answer(prompt: str, n: int, seed: int) -> list[str]:
        raise ModelUnreachableError("Gone.")

    with pytest.raises(ModelError, match="Gone"):
        score(SelfEvaluator(ScriptedCompleter(answer)), [STEP], [CODE])


@pytest.mark.parametrize("kind", [SelfEvaluator, SubquestionScorer])
def test_what_judging_takes_is_the_scorers(
    kind: type[SelfEvaluator] | type[SubquestionScorer],
) -> None:
    completer = always("Verdict: sure", "Yes")
    with track_cost() as cost:
        score(kind(completer), [FIRST], [FIRST, OTHER])
    read = sum(len(request.prompt.split()) for request in completer.requests)
    assert cost == Cost(calls=2, scorer_tokens=read + 2 * 3)


@pytest.mark.parametrize(
    ("texts", "confidence", "value"),
    [
        (["Yes", "Yes", "Yes", "Yes"], None, 1.0),
        (["Yes", "No", "No", "No"], None, -0.5),
        (["Yes", "No", "Perhaps", "Maybe"], None, 0.0),
        (["No", "No", "No", "No"], 1.0, -1.0),
        (["Yes", "No", "No", "No"], 0.25, -0.5),
        (["Yes", "No", "No", "No"], 1.0, 0.0),
        (["Yes", "Yes", "Yes", "Yes"], 0.0, -1.0),
    ],
)
def test_the_reward_of_a_sub_question(
    texts: list[str], confidence: float | None, value: float
) -> None:
    step = Step(prose=FIRST.prose, kind="A3", confidence=confidence)
    assert score(SubquestionScorer(always(*texts)), [step]) == [pytest.approx(value)]


def test_the_reward_can_weigh_usefulness_alone_and_asks_for_one_word() -> None:
    step = Step(prose=FIRST.prose, kind="A3", confidence=0.0)
    completer = always("Yes", "No")
    assert score(SubquestionScorer(completer, alpha=1.0, samples=2), [step], []) == [0.0, 0.0]
    [request] = completer.requests
    assert (request.n, request.temperature) == (2, 1.0)
    assert request.max_tokens <= 4


@given(
    st.lists(st.sampled_from(["Yes", "No", "?"]), max_size=4),
    st.none() | st.floats(0, 1),
    st.floats(0, 1),
)
def test_rewards_lie_in_the_range(texts: list[str], confidence: float | None, alpha: float) -> None:
    step = Step(prose=FIRST.prose, kind="A3", confidence=confidence)
    [value] = score(SubquestionScorer(always(*texts), alpha=alpha), [step])
    assert -1.0 <= value <= 1.0
