"""The HTTP transport against a server that fails in every way we know."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from rstar_math.config import ModelConfig
from rstar_math.costs import track_cost
from rstar_math.errors import (
    ConfigError,
    ContextLengthError,
    ModelRejectedError,
    ModelUnreachableError,
    RequestError,
)
from rstar_math.llm.client import OpenAIClient, Retry
from rstar_math.llm.connect import connect
from rstar_math.protocols import Completion
from rstar_math.testing import FakeServer, Fault, serving
from rstar_math.types import Cost

QUICK = Retry(max_retries=2, timeout_s=1.0, pause_s=0.01)


def answer(body: Mapping[str, Any]) -> Sequence[str]:
    return [f"step {i}<step/> and more" for i in range(body["n"])]


def ask(fake: FakeServer, n: int = 3, retry: Retry = QUICK) -> tuple[list[Completion], Cost]:
    async def once() -> tuple[list[Completion], Cost]:
        model = OpenAIClient(fake.url, name="fake", key="secret", retry=retry)
        try:
            with track_cost() as cost:
                found = await model.complete(
                    "1 2", n=n, stop=["/>"], max_tokens=9, temperature=0.7, seed=3
                )
            return found, cost
        finally:
            await model.aclose()

    return asyncio.run(once())


def test_asks_for_n_samples_in_one_request() -> None:
    with serving(answer) as fake:
        found, cost = ask(fake)
    assert [c.text for c in found] == ["step 0<step", "step 1<step", "step 2<step"]
    (body,) = fake.requests
    assert (body["n"], body["seed"], body["stop"]) == (3, 3, ["/>"])
    assert (cost.calls, cost.samples, cost.prompt_tokens, cost.sampled_tokens) == (1, 3, 2, 6)


def test_a_server_that_gives_one_sample_at_a_time_is_asked_again() -> None:
    with serving(lambda body: ["only one<step/>"]) as fake:
        found, cost = ask(fake, n=4)
    assert len(found) == 4
    assert (cost.calls, cost.samples) == (4, 4)
    assert len({body["seed"] for body in fake.requests}) == 4
    assert [body["n"] for body in fake.requests] == [4, 1, 1, 1]


def test_one_of_several_requests_that_fails_is_one_error() -> None:
    def dying(body: Mapping[str, Any]) -> Sequence[str]:
        fake.faults.extend([503] * 99)
        return ["only one<step/>"]

    with serving(dying) as fake, pytest.raises(ModelUnreachableError, match="status 503"):
        ask(fake, n=4)


def test_a_server_that_gives_no_sample_is_believed() -> None:
    with serving(lambda body: []) as fake:
        assert ask(fake)[0] == []


@pytest.mark.parametrize("fault", ["drop", 429, 500, 503])
def test_passing_troubles_are_tried_again(fault: Fault) -> None:
    with serving(answer) as fake:
        fake.faults.extend([fault, fault])
        found, cost = ask(fake)
    assert len(found) == 3
    assert (cost.retries, cost.failures, cost.calls) == (2, 0, 1)


@pytest.mark.parametrize("fault", ["drop", "stall", "trickle", "garbage", "nested", 500])
def test_lasting_troubles_are_one_sentence(fault: Fault) -> None:
    with serving(answer) as fake:
        fake.fault_for = lambda body: fault
        with pytest.raises(ModelUnreachableError, match="after 3 attempts") as error:
            ask(fake, retry=Retry(max_retries=2, timeout_s=0.2, pause_s=0.01))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("empty", "without choices"),
        (400, "rejected the request"),
        (401, "API key"),
    ],
)
def test_refusals_are_not_tried_again(fault: Fault, said: str) -> None:
    with serving(answer) as fake:
        fake.fault_for = lambda body: fault
        with pytest.raises(ModelRejectedError, match=said):
            ask(fake)
        assert len(fake.requests) == 2, "the request, and the smallest one to see who is at fault"


@pytest.mark.parametrize("fault", ["garbage", "empty", "drop", "stall", 400, 500])
def test_a_request_that_fails_while_others_succeed_is_told_apart(fault: Fault) -> None:
    with serving(answer) as fake:
        fake.fault_for = lambda body: None if body["max_tokens"] == 1 else fault
        with track_cost() as cost, pytest.raises(RequestError, match="while others succeed"):
            ask(fake, retry=Retry(max_retries=1, timeout_s=0.2, pause_s=0.01))
    assert (cost.failures, cost.calls) == (1, 0)


def test_a_full_context_is_told_apart() -> None:
    with serving(answer) as fake:
        fake.faults.append("context")
        with pytest.raises(ContextLengthError, match="does not fit"):
            ask(fake)


def test_an_odd_choice_changes_nothing_for_later_requests() -> None:
    """A choice without text is one sample less, and no sign that the server cannot do n."""

    async def twice(fake: FakeServer) -> None:
        model = OpenAIClient(fake.url, name="fake", retry=QUICK)
        for _ in range(2):
            await model.complete("1", n=3, stop=["/>"], max_tokens=9, temperature=0, seed=3)
        await model.aclose()

    with serving(lambda body: ["a<step/>", None, "b<step/>"]) as fake:
        asyncio.run(twice(fake))
    assert [(body["n"], body["seed"]) for body in fake.requests] == [(3, 3), (3, 3)]


def test_a_route_that_once_answered_is_not_given_up() -> None:
    async def twice(fake: FakeServer) -> None:
        model = OpenAIClient(fake.url, name="fake", retry=QUICK)
        await model.complete("1", n=1, stop=[], max_tokens=9, temperature=0, seed=3)
        fake.routes = {"/v1/chat/completions"}
        with pytest.raises(ModelRejectedError, match="has no /completions"):
            await model.complete("1", n=1, stop=[], max_tokens=9, temperature=0, seed=3)
        await model.aclose()

    with serving(answer) as fake:
        asyncio.run(twice(fake))


def test_half_characters_from_a_model_are_replaced() -> None:
    with serving(lambda body: ["half \ud83d<step/>"]) as fake:
        found, _ = ask(fake, n=1)
    assert found[0].text.startswith("half \ufffd")
    assert found[0].text.encode()


def test_the_loopback_is_not_reached_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with serving(answer) as fake:
        assert len(ask(fake)[0]) == 3


def test_a_key_that_is_no_ascii_is_named() -> None:
    with pytest.raises(ConfigError, match="cannot be sent"):
        OpenAIClient("http://127.0.0.1:9/v1", key="cl\u00e9")


def test_falls_back_to_chat() -> None:
    with serving(answer) as fake:
        fake.routes = {"/v1/chat/completions"}
        found, _ = ask(fake)
    assert [c.text for c in found] == ["step 0<step", "step 1<step", "step 2<step"]
    (body,) = fake.requests
    assert body["messages"][0]["content"].endswith("\n\n1 2")


def test_a_server_with_neither_route_is_refused() -> None:
    with serving(answer) as fake:
        fake.routes = set()
        with pytest.raises(ModelRejectedError, match="does the address end in /v1"):
            ask(fake)


def greeted(config: ModelConfig) -> str:
    async def once() -> str:
        model = await connect(config)
        await model.aclose()
        return model.name

    return asyncio.run(once())


def test_connect_settles_the_models_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with serving(answer, model="little-7b") as fake:
        fake.key = "k"
        assert greeted(ModelConfig(url=fake.url)) == "little-7b"
        assert greeted(ModelConfig(url=fake.url + "/", name="little-7b")) == "little-7b"
        with pytest.raises(ModelRejectedError, match=r"no model 'big'; .* one of: little-7b"):
            greeted(ModelConfig(url=fake.url, name="big"))
        monkeypatch.setenv("OPENAI_API_KEY", "wrong")
        with pytest.raises(ModelRejectedError, match=r"API key .*api_key_env"):
            greeted(ModelConfig(url=fake.url))


@pytest.mark.parametrize(
    ("url", "error", "said"),
    [
        ("http://127.0.0.1:9/v1", ModelUnreachableError, "nothing listens there"),
        ("http://no-such-host.invalid/v1", ModelUnreachableError, "No model server answers"),
        ("ftp://127.0.0.1/v1", ConfigError, "Unknown model"),
        ("smollm", ConfigError, "Unknown model"),
        ("http://[::/v1", ConfigError, "not an address"),
    ],
)
def test_wrong_addresses_are_errors_at_once(url: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        greeted(ModelConfig(url=url))


def test_an_address_without_v1_is_explained() -> None:
    with serving(answer) as fake, pytest.raises(ModelRejectedError, match="end in /v1"):
        greeted(ModelConfig(url=fake.url.removesuffix("/v1")))


def test_cancelling_ends_the_request() -> None:
    async def once(fake: FakeServer) -> None:
        model = OpenAIClient(fake.url, name="fake", concurrency=1)
        slow = asyncio.create_task(
            model.complete("1", n=1, stop=[], max_tokens=9, temperature=0, seed=0)
        )
        while not fake.requests:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        fake.delay_s = 0.0
        assert await model.complete("2", n=1, stop=[], max_tokens=9, temperature=0, seed=0)
        await model.aclose()

    with serving(answer, delay_s=2.0) as fake:
        asyncio.run(once(fake))
