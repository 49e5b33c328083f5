"""What servers say, read back: good answers, odd ones, and what they cost."""

from dataclasses import replace
from typing import Any

import pytest

from rstar_math.errors import ModelRejectedError
from rstar_math.llm.formats import (
    CHAT,
    COMPLETIONS,
    CONTINUED_CHAT,
    LLAMA_CPP,
    VLLM_CHAT,
    CompletionRequest,
)
from rstar_math.prompts import ChatPrompt
from rstar_math.protocols import Completion

ASK = CompletionRequest("m", "1 2", 2, ("/>", "\nQ"), 8, 0.5, 7)


def choices(*entries: object, **more: object) -> dict[str, object]:
    return {"choices": list(entries), **more}


def test_each_dialect_says_the_same_request() -> None:
    body = COMPLETIONS.build(ASK)
    assert body == {
        "model": "m", "prompt": "1 2", "n": 2, "stop": ["/>", "\nQ"], "max_tokens": 8,
        "temperature": 0.5, "seed": 7,
    }  # fmt: skip
    assert CHAT.build(ASK)["messages"][0]["content"].endswith("\n\n1 2")
    native = LLAMA_CPP.build(ASK)
    assert (native["n_cmpl"], native["n_predict"], native["seed"]) == (2, 8, 7)
    assert "id_slot" not in native
    assert LLAMA_CPP.build(replace(ASK, slot=3)) == native | {"id_slot": 3}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"text": "a<step", "finish_reason": "stop"}, Completion("a<step", True, None)),
        ({"text": "a<step/> more", "finish_reason": "length"}, Completion("a<step", True, "/>")),
        ({"text": "a\nQ</>", "finish_reason": "stop"}, Completion("a", True, "\nQ")),
        ({"text": "a", "finish_reason": "length"}, Completion("a", False, None)),
        ({"text": "a", "finish_reason": "stop", "stop_reason": "/>"}, Completion("a", True, "/>")),
        ({"text": "a", "finish_reason": "stop", "stop_reason": 2}, Completion("a", True, None)),
        ({"message": {"content": "a"}, "finish_reason": "stop"}, Completion("a", True, None)),
    ],
)
def test_a_choice_is_read(choice: dict[str, Any], expected: Completion) -> None:
    assert COMPLETIONS.parse(ASK, choices(choice))[0] == [expected]


@pytest.mark.parametrize("entry", [None, 3, {}, {"text": None}, {"message": {"content": None}}])
def test_a_choice_without_text_is_left_out(entry: object) -> None:
    found, cost = COMPLETIONS.parse(ASK, choices(entry, {"text": "a", "finish_reason": "stop"}))
    assert len(found) == 1
    assert cost.samples == 2


@pytest.mark.parametrize("answer", [None, [], {}, {"choices": "none"}, "text"])
def test_an_answer_without_choices_is_an_error(answer: object) -> None:
    with pytest.raises(ModelRejectedError, match="without choices"):
        COMPLETIONS.parse(ASK, answer)


@pytest.mark.parametrize("answer", [None, [], "text", {"content": 3}, [{"content": "a"}, {}]])
def test_a_llama_answer_without_content_is_an_error(answer: object) -> None:
    if answer == []:
        assert LLAMA_CPP.parse(ASK, answer)[0] == []
        return
    with pytest.raises(ModelRejectedError, match="without content"):
        LLAMA_CPP.parse(ASK, answer)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}},
        {"prompt_tokens": "x", "completion_tokens": -1, "prompt_tokens_details": None},
        None,
        [],
    ],
)
def test_usage_is_counted_where_it_is_sound(usage: object) -> None:
    cost = COMPLETIONS.parse(ASK, choices({"text": "a"}, usage=usage))[1]
    sound = isinstance(usage, dict) and usage["prompt_tokens"] == 9
    counted = (cost.prompt_tokens, cost.cached_tokens, cost.sampled_tokens)
    assert counted == ((9, 4, 5) if sound else (1, 0, 1))
    assert cost.estimated_tokens == (0 if sound else 2)
    assert cost.calls == 1


def test_llama_counts_the_tokens_of_every_sample() -> None:
    part = {"content": "a<step", "stop_type": "word", "stopping_word": "/>", "tokens_predicted": 3}
    cut = {"content": "b", "stop_type": "limit", "stopping_word": "", "tokens_predicted": 8}
    first = part | {"tokens_evaluated": 20, "timings": {"cache_n": 18}}
    found, cost = LLAMA_CPP.parse(ASK, [first, cut])
    assert found == [Completion("a<step", True, "/>"), Completion("b", False, None)]
    assert (cost.prompt_tokens, cost.cached_tokens, cost.sampled_tokens) == (20, 18, 11)


def test_a_conversation_is_said_to_each_kind_of_chat_server() -> None:
    prompt = ChatPrompt([("system", "Be brief."), ("user", "1 + 1?")], "```python\nx")
    ask = replace(ASK, prompt=prompt)
    user = {"role": "user", "content": "1 + 1?"}
    continued = CONTINUED_CHAT.build(ask)["messages"]
    assert continued[1:] == [user, {"role": "assistant", "content": "```python\nx"}]
    vllm = VLLM_CHAT.build(ask)
    assert vllm["messages"] == continued
    assert (vllm["continue_final_message"], vllm["add_generation_prompt"]) == (True, False)
    asked = CHAT.build(ask)["messages"]
    assert [message["role"] for message in asked] == ["system", "user"]
    assert asked[-1]["content"].endswith("```python\nx")
    fresh = replace(ASK, prompt=ChatPrompt([("user", "1 + 1?")], ""))
    assert "continue_final_message" not in VLLM_CHAT.build(fresh)
    assert CHAT.build(fresh)["messages"] == [user]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (
            {"message": {"content": "It is 2.", "reasoning_content": "1 and 1"}},
            Completion("It is 2.", True, reasoning="1 and 1"),
        ),
        (
            {"text": "<think>\nIt is \\boxed{3}?\n</think>\n\nIt is 2."},
            Completion("It is 2.", True, reasoning="It is \\boxed{3}?"),
        ),
        ({"text": "1 and 1</think>It is 2."}, Completion("It is 2.", True, reasoning="1 and 1")),
        ({"text": "<think>1 and"}, Completion("", False, reasoning="1 and")),
        (
            {"message": {"content": None, "reasoning_content": "1 and"}, "finish_reason": "length"},
            Completion("", False, reasoning="1 and"),
        ),
        ({"text": "x", "matched_stop": "\nQ"}, Completion("x", True, "\nQ")),
    ],
)
def test_thoughts_are_no_part_of_an_answer(choice: dict[str, Any], expected: Completion) -> None:
    found, _ = COMPLETIONS.parse(ASK, choices({"finish_reason": "stop", **choice}))
    assert found == [expected]
