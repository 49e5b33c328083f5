"""Model servers as they are: their words for an end, an error, a refused field, a full context."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from rstar_math.costs import track_cost
from rstar_math.errors import ContextLengthError, ModelRejectedError, ModelUnreachableError
from rstar_math.llm.client import OpenAIClient, Retry
from rstar_math.prompts import ChatPrompt
from rstar_math.protocols import Completion
from rstar_math.types import Cost
from tests.integration.servers.scripted_server import GOOD, Answer, scripted

FAST = Retry(max_retries=3, timeout_s=5.0, pause_s=0.01)
STOPS = ("/>", "\nQ", "\n\n", "##", "END")


def ask(
    url: str, *, n: int = 1, times: int = 1, chat: bool = False
) -> tuple[list[Completion], Cost]:
    """The samples of the last of several requests, and the cost of all."""
    prompt = ChatPrompt([("user", "2 + 2 =")], "") if chat else "2 + 2 ="

    async def once() -> list[Completion]:
        client = OpenAIClient(url, name="m", retry=FAST)
        try:
            for _ in range(times):
                found = await client.complete(
                    prompt, n=n, stop=STOPS, max_tokens=512, temperature=0.7, seed=3
                )
            return found
        finally:
            await client.aclose()

    with track_cost() as cost:
        return asyncio.run(once()), cost


def reply(**choice: object) -> Answer:
    return Answer({**GOOD, "choices": [{"text": "4", "finish_reason": "stop", **choice}]})


@pytest.mark.parametrize(
    ("reason", "finished"),
    [
        *[(reason, True) for reason in ("stop", "eos", "eos_token", "end_turn", "STOP", "weird")],
        *[(reason, True) for reason in ("stop_sequence", "complete", None, "")],
        *[(reason, False) for reason in ("length", "max_tokens", "MAX_TOKENS", "model_length")],
        *[(reason, False) for reason in ("content_filter", "abort", "error", "SAFETY")],
    ],
)
def test_every_word_for_an_end(reason: str | None, finished: bool) -> None:
    with scripted(lambda body, number: reply(finish_reason=reason)) as server:
        assert ask(server.url)[0] == [Completion("4", finished, None)]


def test_without_a_reason_the_limit_decides() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 512}
    cut = Answer({"choices": [{"text": "4"}], "usage": usage})
    with scripted(lambda body, number: cut) as server:
        assert ask(server.url)[0] == [Completion("4", False, None)]


TRANSIENT = [
    *[Answer({"error": {"message": "later"}}, status) for status in (408, 409, 425, 429)],
    *[Answer(b"<html>", status) for status in (500, 501, 502, 503, 504, 520, 522, 524, 529)],
    Answer({"error": {"message": "overloaded", "code": 529}}),
    Answer({"error": "the model is loading"}),
    Answer(b""),
    Answer(b'{"choices": [{"text": "4"'),
    Answer(b"<html>502</html>"),
    Answer(whole=False),
]


@pytest.mark.parametrize("fault", TRANSIENT, ids=lambda fault: f"{fault.status}-{fault.body!s:.20}")
def test_what_may_pass_is_tried_again(fault: Answer) -> None:
    with scripted(lambda body, number: fault if number < 2 else Answer()) as server:
        found, cost = ask(server.url)
    assert found == [Completion("4", True, None)]
    assert (cost.retries, cost.failures, cost.calls) == (2, 0, 1)


@pytest.mark.parametrize("fault", TRANSIENT, ids=lambda fault: f"{fault.status}-{fault.body!s:.20}")
def test_what_does_not_pass_is_one_sentence(fault: Answer) -> None:
    with (
        scripted(lambda body, number: fault) as server,
        pytest.raises(ModelUnreachableError, match="did not answer after 4 attempts") as told,
    ):
        ask(server.url)
    assert "\n" not in str(told.value)


def test_retry_after_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr("rstar_math.llm.client.asyncio.sleep", note)
    busy = Answer({}, 429, {"Retry-After": "7"})
    with scripted(lambda body, number: busy if number == 0 else Answer()) as server:
        ask(server.url)
    assert max(waits) == 7


def refuse(
    unless: Callable[[dict[str, Any]], bool], message: object, status: int = 400
) -> Callable[[dict[str, Any], int], Answer]:
    """A server that answers a request only if `unless` accepts its body."""

    def answer(body: dict[str, Any], number: int) -> Answer:
        if not unless(body):
            return Answer(message, status)
        choices = [{"text": "4", "finish_reason": "stop"}] * body.get("n", 1)
        return Answer({**GOOD, "choices": choices})

    return answer


def said(message: str, **more: object) -> dict[str, object]:
    return {"error": {"message": message, **more}}


REFUSALS: list[tuple[str, Callable[[dict[str, Any]], bool], object, int]] = [
    ("n", lambda b: b["n"] == 1, said("n > 1 is not supported", param="n"), 400),
    ("n", lambda b: b["n"] == 1, said("Only n = 1 is supported for this model."), 400),
    ("n", lambda b: b["n"] == 1, {"detail": [{"loc": ["body", "n"], "msg": "must be 1"}]}, 422),
    ("stop", lambda b: len(b["stop"]) <= 4, said("Too many stop sequences: at most 4"), 400),
    ("stop", lambda b: len(b["stop"]) <= 4, said("Array too long.", param="stop"), 400),
    ("stop", lambda b: "stop" not in b, said("stop is not supported with this model"), 400),
    ("seed", lambda b: "seed" not in b, said("Unrecognized request argument supplied: seed"), 400),
    ("seed", lambda b: "seed" not in b, {"object": "error", "message": "Extra inputs are not "
     "permitted, field: 'seed'", "code": 400}, 422),
    ("temperature", lambda b: "temperature" not in b, said("Unsupported value: 'temperature' does "
     "not support 0.7 with this model. Only the default (1) is supported."), 400),
    ("max_tokens", lambda b: "max_completion_tokens" in b, said("Unsupported parameter: "
     "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."), 400),
    ("max_tokens", lambda b: b["max_tokens"] <= 256, said("max_tokens is too large: 512. This "
     "model supports at most 256 completion tokens."), 400),
]  # fmt: skip


@pytest.mark.parametrize(("field", "unless", "message", "status"), REFUSALS)
def test_a_refused_field_is_worked_around_and_remembered(
    field: str,
    unless: Callable[[dict[str, Any]], bool],
    message: object,
    status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with scripted(refuse(unless, message, status)) as server:
        found, cost = ask(server.url, n=3, times=3)
        refused = [body for body in server.requests if not unless(body)]
    assert found == [Completion("4", True, None)] * 3
    assert len(refused) <= 2, "what was learned is used in the later requests"
    assert cost.failures == 0
    told = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert 1 <= len(told) <= 2
    assert f"refuses the field {field}" in told[0].getMessage()
    limits = [b.get("max_tokens", b.get("max_completion_tokens")) for b in server.requests]
    assert all(limits), "a request without a limit would have no end"


def test_several_refused_fields_are_found_one_by_one() -> None:
    def answer(body: dict[str, Any], number: int) -> Answer:
        for field in ("seed", "stop", "temperature"):
            if field in body:
                return Answer(said(f"Unknown field: {field}"), 400)
        return Answer()

    with scripted(answer) as server:
        assert ask(server.url, times=2)[0] == [Completion("4", True, None)]
        assert len(server.requests) == 6, "first four stop strings, then none"


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (said("This is not a valid request."), 400),
        (said("The model does not exist"), 400),
        (said("Content blocked by the policy"), 400),
        (said("max_tokens must be an integer"), 400),
    ],
)
def test_another_refusal_is_passed_on(message: object, status: int) -> None:
    with scripted(lambda body, number: Answer(message, status)) as server:
        with pytest.raises(ModelRejectedError, match="rejected the request"):
            ask(server.url)
        assert len(server.requests) == 2, "the request, and the smallest one to see who is at fault"


FULL = [
    said("This model's maximum context length is 4096 tokens. However, you requested 5000 tokens."),
    said("The decoder prompt (length 5000) is longer than the maximum model length of 4096."),
    said("The input (5000 tokens) is longer than the model's context length (4096 tokens)."),
    said("Requested token count exceeds the model's maximum context length of 4096 tokens."),
    said("the request exceeds the available context size. try increasing the context size",
         type="exceed_context_size_error"),
    {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: "
     "5000 `inputs` tokens and 512 `max_new_tokens`", "error_type": "validation"},
    {"error": "Input validation error: `inputs` must have less than 4095 tokens. Given: 5000"},
    said("Please reduce the length of the messages.", code="context_length_exceeded"),
    said("prompt is too long: 212000 tokens > 200000 maximum", type="invalid_request_error"),
    said("input length and `max_tokens` exceed context limit: 199000 + 4096 > 200000"),
    said("The input token count (40000) exceeds the maximum number of tokens allowed (32768)."),
    said("Prompt contains 5000 tokens, too large for model with 4096 maximum context length"),
]  # fmt: skip


@pytest.mark.parametrize("body", FULL, ids=lambda body: str(body)[:60])
@pytest.mark.parametrize("status", [400, 413, 422, 500])
def test_a_full_context_is_read_in_every_wording(body: object, status: int) -> None:
    with scripted(lambda asked, number: Answer(body, status)) as server:
        with pytest.raises(ContextLengthError, match="does not fit"):
            ask(server.url)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "message",
    [
        "The stop string is too long.",
        "Invalid context: the field user is missing.",
        "The request id is longer than 64 characters.",
        "Your prompt violates the policy in this context.",
        "Authentication took too long.",
    ],
)
def test_nothing_else_is_taken_for_a_full_context(message: str) -> None:
    refused = Answer(said(message), 400)
    with (
        scripted(lambda body, number: refused) as at,
        pytest.raises(ModelRejectedError) as told,
    ):
        ask(at.url)
    assert not isinstance(told.value, ContextLengthError)


MESSAGES: list[tuple[dict[str, object], str, str]] = [
    ({"content": "4"}, "4", ""),
    ({"content": None, "reasoning_content": "2 and 2"}, "", "2 and 2"),
    ({"content": "4", "reasoning": "2 and 2"}, "4", "2 and 2"),
    ({"content": "<think>2 and 2</think>\n4"}, "4", "2 and 2"),
    ({"content": [{"type": "text", "text": "4"}, {"type": "text", "text": "2"}]}, "42", ""),
    (
        {"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "4"}]},
        "4",
        "hm",
    ),
]


@pytest.mark.parametrize(("message", "text", "reasoning"), MESSAGES)
def test_every_shape_of_a_message(message: dict[str, object], text: str, reasoning: str) -> None:
    choice = {"message": message, "finish_reason": "stop"}
    with scripted(lambda body, number: Answer({**GOOD, "choices": [choice]})) as server:
        assert ask(server.url, chat=True)[0] == [Completion(text, True, None, reasoning=reasoning)]


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": 0, "completion_tokens": None}])
def test_tokens_that_no_server_counts_are_estimated(usage: object) -> None:
    text = "The answer is forty-two. " * 14
    body = {"choices": [{"text": text, "finish_reason": "stop"}], "usage": usage}
    with scripted(lambda asked, number: Answer(body)) as server:
        cost = ask(server.url)[1]
    assert 70 <= cost.sampled_tokens <= 130
    assert 1 <= cost.prompt_tokens <= 4
    assert cost.estimated_tokens == cost.sampled_tokens + cost.prompt_tokens
    with scripted(lambda asked, number: Answer()) as server:
        assert ask(server.url)[1].estimated_tokens == 0
