"""The formats of process reward models as text, and how probabilities are read and combined."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.errors import InputError
from rstar_math.prompts.step_rewards import (
    PRM_FORMATS,
    ChatFrameText,
    aggregate,
    probability,
    recognize_format,
    reward_input,
    reward_steps,
)
from rstar_math.types import Question, Step

FRAME = ChatFrameText("<s>", "user: ?\nassistant: ", "<end>")
TEXTS = st.text(min_size=1, max_size=12).filter(lambda text: bool(text.strip()))


@pytest.mark.parametrize("name", [name for name in PRM_FORMATS if name != "reranker"])
@given(problem=TEXTS, steps=st.lists(TEXTS, min_size=2, max_size=5))
def test_a_longer_input_continues_a_shorter_one(name: str, problem: str, steps: list[str]) -> None:
    """So a prefix cache computes each step once; only the end of a turn is not continued."""
    layout, question = PRM_FORMATS[name], Question("q", problem)
    inputs = [reward_input(layout, question, steps[:n], FRAME) for n in range(1, len(steps) + 1)]
    end = layout.end.replace("{end}", FRAME.end)
    for shorter, longer in pairwise(inputs):
        assert longer.text.startswith(shorter.text.removesuffix(end))
        assert longer.steps == shorter.steps + 1
    last = inputs[-1].text
    assert last.endswith(layout.mark + end)
    if layout.mark.strip():
        assert last.count(layout.mark.strip()) >= len(steps)


def test_a_problem_that_looks_like_a_template_is_text() -> None:
    layout = PRM_FORMATS["math-shepherd"]
    one = reward_input(layout, Question("q", "Is {step} {n}?"), ["{question} {n}"], FRAME)
    assert one.text == "Is {step} {n}? Step 1: {question} {n} ки"
    numbered = reward_input(layout, Question("q", "?"), ["Step 1: Add."], FRAME)
    assert numbered.text == "? Step 1: Add. ки"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_aggregates_stay_probabilities_and_bound_each_other(values: list[float]) -> None:
    found = {how: aggregate(values, how) for how in ("last", "min", "product", "mean")}
    assert all(0 <= value <= 1 + 1e-9 for value in found.values())
    assert found["product"] <= found["min"] + 1e-12 <= found["mean"] + 1e-9
    assert found["last"] == values[-1]


@given(st.floats(-50, 50), st.floats(-50, 50))
def test_outputs_are_read_as_probabilities(a: float, b: float) -> None:
    softmax = math.exp(b - max(a, b)) / (math.exp(a - max(a, b)) + math.exp(b - max(a, b)))
    for reading in ("classes", "tokens"):
        assert probability([a, b], reading) == pytest.approx(softmax, abs=1e-9)
    assert probability([b], "sigmoid") == pytest.approx(1 / (1 + math.exp(-b)), abs=1e-9)
    assert probability([b], "tanh") == pytest.approx((1 + math.tanh(b)) / 2)
    with pytest.raises(InputError, match="2 outputs"):
        probability([a, b], "sigmoid")


def test_models_are_recognised_by_name_and_by_architecture() -> None:
    def found(name: str, *architectures: str) -> str | None:
        layout = recognize_format(architectures, name)
        return None if layout is None else layout.name

    assert found("Qwen/Qwen2.5-Math-PRM-72B") == "qwen-prm"
    assert found("x", "Qwen2ForProcessRewardModel") == "qwen-prm"
    assert found("Qwen/Qwen2.5-Math-RM-72B", "Qwen2ForRewardModel") == "qwen-rm"
    assert found("peiyi9979/math-shepherd-mistral-7b-prm", "MistralForCausalLM") == "math-shepherd"
    assert found("RLHFlow/Llama3.1-8B-PRM-Deepseek-Data", "LlamaForCausalLM") == "rlhflow"
    assert found("Skywork/Skywork-o1-Open-PRM-Qwen-2.5-7B") == "skywork-prm"
    assert found("mine", "Qwen2ForTokenClassification") == "trl"
    assert found("mine", "LlamaForSequenceClassification") == "classifier"
    assert found("mine", "LlamaForCausalLM") is None


def test_code_is_shown_as_markdown_and_words_by_paragraph() -> None:
    code = [
        Step(prose="# Add.\n", code="x = 2 + 3\n"),
        Step(prose="# Print.\n", code="print(x)\n", kind="code"),
        Step(prose="It is \\boxed{5}.", kind="answer", answer="5"),
    ]
    shown = reward_steps(code)
    assert len(shown) == 3
    assert shown[0].startswith("```python")
    assert reward_steps(code[:2]) == shown[:2]
    words = [Step(prose="First.\n\nThen.", kind="thought"), Step(prose="Last.", kind="thought")]
    assert reward_steps(words) == ["First.", "Then.", "Last."]
    assert len(reward_steps([])) == 1
