"""The official OpenAI client against our server."""

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from rstar_math.web.access import AccessPolicy, ApiKeys
from tests.integration.serve.live import ASK, Adder, Live, live

KEY = "a-key-of-enough-length"


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live(Adder()) as server:
        yield server


def client(server: Live, **more: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, api_key=KEY, max_retries=0, **more)


def own(part: Any, field: str) -> Any:
    """A field of ours, which the client hands on."""
    return part.to_dict().get(field)


def test_a_plain_chat_ends_with_the_answer(server: Live) -> None:
    got = client(server).chat.completions.create(model="rstar", messages=ASK)
    (choice,) = got.choices
    assert choice.finish_reason == "stop"
    assert choice.message.role == "assistant"
    text = choice.message.content or ""
    assert "```python\n# Way" in text
    assert "Output:\n\n```\n42\n```" in text
    assert text.endswith("Together it is \\boxed{42}.")
    found = own(choice, "rstar")
    assert found["answer"] == "42"
    assert 0.5 <= found["share"] <= 1
    assert found["ended"] == "finished"
    assert "Votes: 42" in own(choice.message, "reasoning_content")


def test_usage_counts_what_was_searched(server: Live) -> None:
    got = client(server).chat.completions.create(model="rstar", messages=ASK)
    usage, found = got.usage, own(got.choices[0], "rstar")
    assert usage is not None
    assert usage.completion_tokens == found["sampled_tokens"] == 80 * found["calls"]
    assert usage.prompt_tokens == 30 * found["calls"]
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.completion_tokens_details is not None
    assert 0 < (usage.completion_tokens_details.reasoning_tokens or 0) < usage.completion_tokens


def test_a_stream_thinks_aloud_and_then_answers(server: Live) -> None:
    api = client(server).chat.completions
    stream = api.create(
        model="rstar", messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    thought, said, ends, usage = "", "", [], None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            piece = own(choice.delta, "reasoning_content") or ""
            assert not (piece and said), "it thinks after it began to answer"
            thought += piece
            said += choice.delta.content or ""
            ends += [choice.finish_reason] if choice.finish_reason else []
    whole = api.create(model="rstar", messages=ASK)
    assert said == whole.choices[0].message.content
    assert ends == ["stop"]
    assert "steps tried" in thought
    assert "Best so far: 42 (" in thought
    assert usage == whole.usage


def test_n_answers_and_a_seed_that_gives_them_again(server: Live) -> None:
    def asked(seed: int) -> list[Any]:
        got = client(server).chat.completions.create(
            model="rstar-sc2", messages=ASK, n=4, seed=seed
        )
        assert [choice.index for choice in got.choices] == [0, 1, 2, 3]
        return [(c.message.content, own(c, "rstar")["votes"]) for c in got.choices]

    assert asked(7) == asked(7)
    assert len({str(one) for seed in (7, 8, 9) for one in asked(seed)}) > 1
    one = client(server).chat.completions.create(model="rstar-sc2", messages=ASK, seed=7)
    assert one.choices[0].message.content == asked(7)[0][0]


def test_stop_and_max_tokens_cut_the_text(server: Live) -> None:
    api = client(server).chat.completions
    stopped = api.create(model="rstar", messages=ASK, stop=["Output:", "nowhere"]).choices[0]
    assert (stopped.message.content or "").endswith("```\n\n")
    assert stopped.finish_reason == "stop"
    cut = api.create(model="rstar", messages=ASK, max_tokens=5)
    assert cut.choices[0].finish_reason == "length"
    assert len(cut.choices[0].message.content or "") <= 5 * 6
    assert own(cut.choices[0], "rstar")["answer"] == "42"


def test_a_text_completion_whole_and_streamed(server: Live) -> None:
    api = client(server).completions
    whole = api.create(model="rstar", prompt=["Add 20 and 22.", "Add 1 and 2."], n=2)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert "print(42)" in whole.choices[1].text
    assert "print(3)" in whole.choices[2].text
    pieces = ["", "", "", ""]
    for chunk in api.create(
        model="rstar", prompt=["Add 20 and 22.", "Add 1 and 2."], n=2, stream=True
    ):
        for choice in chunk.choices:
            pieces[choice.index] += choice.text
    assert pieces == [choice.text for choice in whole.choices]


def test_where_no_path_ends_the_answer_says_so(server: Live) -> None:
    ask: Any = [{"role": "user", "content": "silence 1 2"}]
    got = client(server).chat.completions.create(model="rstar", messages=ask)
    assert got.choices[0].finish_reason == "stop"
    assert (got.choices[0].message.content or "").startswith("No answer was found")
    assert "no next step" in (got.choices[0].message.content or "")
    assert own(got.choices[0], "rstar")["answer"] is None


def test_models_are_listed_and_each_can_be_asked(server: Live) -> None:
    names = [model.id for model in client(server).models.list()]
    assert {"rstar", "rstar-fast", "rstar-mcts16"} <= set(names)
    for name in names:
        assert client(server).models.retrieve(name).id == name
        got = client(server).chat.completions.create(model=name, messages=ASK)
        assert own(got.choices[0], "rstar")["answer"] in ("42", "43")
    with pytest.raises(openai.NotFoundError, match="gpt-4"):
        client(server).models.retrieve("gpt-4")


def test_errors_are_those_that_the_client_knows(server: Live) -> None:
    api = client(server).chat.completions
    with pytest.raises(openai.NotFoundError) as unknown:
        api.create(model="gpt-4", messages=ASK)
    assert unknown.value.code == "model_not_found"
    assert unknown.value.param == "model"
    picture = {"type": "image_url", "image_url": {"url": "data:,"}}
    seen: Any = [{"role": "user", "content": [{"type": "text", "text": "What?"}, picture]}]
    with pytest.raises(openai.BadRequestError, match="send text only") as shown:
        api.create(model="rstar", messages=seen)
    assert shown.value.param == "messages.0.content"
    with pytest.raises(openai.BadRequestError, match="less than or equal to 128"):
        api.create(model="rstar", messages=ASK, n=129)
    with pytest.raises(openai.BadRequestError, match="1 to 8"):
        api.create(model="rstar", messages=ASK, n=9)
    with pytest.raises(openai.BadRequestError, match="needs a scorer"):
        api.create(model="rstar-beam", messages=ASK)
    with pytest.raises(openai.BadRequestError, match="needs a scorer"):
        api.create(model="rstar-beam", messages=ASK, stream=True)


def test_a_bug_is_told_without_its_insides(server: Live) -> None:
    ask: Any = [{"role": "user", "content": "bug 1 2"}]
    with pytest.raises(openai.InternalServerError) as told:
        client(server).chat.completions.create(model="rstar", messages=ask)
    assert "secret" not in str(told.value)
    assert client(server).chat.completions.create(model="rstar", messages=ASK).choices


def test_a_model_that_is_gone_is_an_error_at_once_or_in_the_stream() -> None:
    ask: Any = [{"role": "user", "content": "gone 1 2"}]
    with live(Adder(0.4)) as server:
        api = client(server).chat.completions
        with pytest.raises(openai.InternalServerError, match="does not answer") as told:
            api.create(model="rstar", messages=ask)
        assert (told.value.status_code, told.value.code) == (502, "model_unreachable")
        with pytest.raises(openai.APIError, match="does not answer"):
            list(api.create(model="rstar", messages=ask, stream=True))
        assert 'searches_total{ended="failed"} 2.0' in server.get("/metrics").text


def test_fields_of_ours_choose_the_search(server: Live) -> None:
    def asked(wish: dict[str, Any], model: str = "rstar") -> dict[str, Any]:
        got = client(server).chat.completions.create(
            model=model, messages=ASK, extra_body={"rstar": wish}
        )
        found: dict[str, Any] = own(got.choices[0], "rstar")
        return found

    assert asked({"strategy": "mcts@2"})["rollouts"] == 2
    assert asked({"strategy": "sc@6"}, "rstar-mcts16")["strategy"] == "sc@6"
    assert asked({"strategy": "greedy"})["calls"] == 2
    assert asked({"rollouts": 3})["rollouts"] == 3
    assert asked({"strategy": "sc@2", "tokens": 900})["sampled_tokens"] >= 900
    assert asked({"strategy": "sc@64", "confidence": 0.7})["stopped_early"] == "confident"
    assert asked({"tree": False})["tree"] is None
    for wish, param in (
        ({"second": 3}, "rstar.second"),
        ({"strategy": "alchemy"}, "rstar.strategy"),
        ({"strategy": "sc@9999"}, "rstar.strategy"),
        ({"seconds": -1}, "rstar.seconds"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            asked(wish)
        assert refused.value.param == param


def test_the_question_is_the_conversation_or_its_last_message() -> None:
    policy = Adder()
    turns: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Add 1 and 2."},
        {"role": "assistant", "content": "3"},
        {"role": "user", "content": [{"type": "text", "text": "Add 4 and 5."}]},
    ]
    with live(policy) as server:
        api = client(server).chat.completions
        api.create(model="rstar-greedy", messages=turns)
        (asked,) = set(policy.questions)
        parts = ("Be brief.", "User: Add 1 and 2.", "Assistant: 3", "User: Add 4 and 5.")
        places = [asked.index(part) for part in parts]
        assert places == sorted(places)
        policy.questions.clear()
        api.create(model="rstar-greedy", messages=[turns[0], turns[3]])
        assert set(policy.questions) == {"Be brief.\n\nAdd 4 and 5."}
        policy.questions.clear()
        reply = api.create(
            model="rstar-greedy", messages=turns, extra_body={"rstar": {"context": False}}
        )
        assert set(policy.questions) == {"Add 4 and 5."}
        assert "messages before the last" in reply.choices[0].rstar["ignored"]  # type: ignore[attr-defined]
        with pytest.raises(openai.BadRequestError) as refused:
            api.create(model="rstar-greedy", messages=turns[:3])
        assert refused.value.param == "messages"


def test_the_reply_names_the_fields_that_have_no_effect() -> None:
    with live(Adder()) as server:
        reply = client(server).chat.completions.create(
            model="rstar-greedy", messages=ASK, temperature=0.2, top_p=0.9, user="u", seed=1
        )
        assert reply.choices[0].rstar["ignored"] == ["temperature", "top_p"]  # type: ignore[attr-defined]


def test_a_wrong_key_is_an_authentication_error() -> None:
    with live(Adder(), access=AccessPolicy(ApiKeys([KEY, "another-key-that-is-taken"]))) as server:
        assert client(server).chat.completions.create(model="rstar", messages=ASK).choices
        stranger = openai.OpenAI(base_url=server.url, api_key="not-the-key", max_retries=0)
        with pytest.raises(openai.AuthenticationError) as refused:
            stranger.chat.completions.create(model="rstar", messages=ASK)
        assert refused.value.code == "invalid_api_key"
        for path in ("/v1/models", "/metrics", "/nothing"):
            assert server.get(path).status_code == 401
        for path in ("/health", "/openapi.json"):
            assert server.get(path).status_code == 200


def test_a_hundred_at_once_are_all_answered() -> None:
    with live(Adder(0.005)) as server:

        async def ask() -> list[str | None]:
            async with openai.AsyncOpenAI(base_url=server.url, api_key=KEY, max_retries=0) as api:
                jobs = [
                    api.chat.completions.create(
                        model="rstar",
                        messages=[{"role": "user", "content": f"Add {i} and {2 * i}."}],
                    )
                    for i in range(100)
                ]
                return [got.choices[0].message.content for got in await asyncio.gather(*jobs)]

        texts = asyncio.run(ask())
        right = sum(f"\\boxed{{{3 * i}}}" in (text or "") for i, text in enumerate(texts))
        assert right >= 60, "answers went to the wrong questions"
        server.until("rstar_searching", 0)
        assert server.metric("rstar_answers_total") == 100
