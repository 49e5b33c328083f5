"""How a server's model wants to be asked, found out from the server."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rstar_math.checkpoints.folders import bundled_weights
from rstar_math.config import Config, ModelConfig, PolicyConfig
from rstar_math.llm.client import OpenAIClient
from rstar_math.llm.connect import connect
from rstar_math.models.prompting import Prompting
from rstar_math.policies.completions import StepPolicy
from rstar_math.prompts import ChatPrompt
from rstar_math.testing import FakeServer, serving
from rstar_math.types import Question

CHAT = "/v1/chat/completions"
QUESTION = Question("q", "Ben has 2 cards and gets 3 more. How many has he?")


def learn(fake: FakeServer) -> tuple[Prompting, OpenAIClient]:
    async def ask() -> tuple[Prompting, OpenAIClient]:
        model = await connect(ModelConfig(url=fake.url, max_retries=0))
        assert isinstance(model, OpenAIClient)
        await model.aclose()
        return model.prompting, model

    return asyncio.run(ask())


def test_a_server_that_continues_is_told_from_one_that_answers_anew() -> None:
    def continues(body: Mapping[str, Any]) -> Sequence[str]:
        return [" 5, 6, 7"] if body.get("messages", [{}])[-1].get("role") == "assistant" else ["1"]

    with serving(continues) as fake:
        fake.routes.add(CHAT)
        found, _ = learn(fake)
    assert found == Prompting(continues=True, chat=True)
    with serving(lambda body: ["Sure! 1, 2, 3"]) as fake:
        fake.routes.add(CHAT)
        found, _ = learn(fake)
    assert found == Prompting(chat=True)


def test_a_server_that_has_to_be_told_to_continue() -> None:
    def picky(body: Mapping[str, Any]) -> Sequence[str]:
        return [" 5, 6"] if body.get("continue_final_message") else ["1, 2"]

    with serving(picky) as fake:
        fake.routes.add(CHAT)
        found, model = learn(fake)
        assert found.continues
        prompt = ChatPrompt([("user", "Go on.")], "```python\n")
        assert "continue_final_message" in model.chat_format.build(model_ask(prompt))


def model_ask(prompt: str) -> Any:
    from rstar_math.llm.formats import CompletionRequest

    return CompletionRequest("m", prompt, 1, (), 8, 0.0, 0)


def test_a_server_without_chat_is_asked_in_plain_text() -> None:
    with serving(lambda body: ["x"] * body["n"]) as fake:
        found, _ = learn(fake)
    assert found == Prompting()


def test_completion_mode_asks_no_question_of_its_own() -> None:
    async def ask(url: str) -> None:
        model = await connect(ModelConfig(url=url), chat=False)
        await model.aclose()

    with serving(lambda body: ["x"]) as fake:
        asyncio.run(ask(fake.url))
        assert fake.requests == []


def test_steps_are_continued_through_the_chat_route() -> None:
    def count_or_step(body: Mapping[str, Any]) -> Sequence[str]:
        last = body["messages"][-1]
        if last["content"] == "1, 2, 3, 4,":
            return [" 5, 6"]
        assert last["role"] == "assistant"
        return ["# Add.\nx = 2 + 3\n# Show.\nprint(x)\n```\n"] * body["n"]

    async def ask(url: str) -> list[str]:
        model = await connect(ModelConfig(url=url))
        try:
            policy = StepPolicy(model, PolicyConfig())
            first = await policy.propose(QUESTION, (), 2, seed=0)
            second = await policy.propose(QUESTION, first[:1], 1, seed=0)
            return [step.code for step in (*first, *second)]
        finally:
            await model.aclose()

    with serving(count_or_step) as fake:
        fake.routes.add(CHAT)
        assert asyncio.run(ask(fake.url)) == ["x = 2 + 3\n"] * 3
        assert fake.requests[-1]["messages"][-1]["content"] == "```python\n# Add.\nx = 2 + 3\n"


def test_a_llama_cpp_server_shows_its_template_and_is_sent_text() -> None:
    import xllamacpp

    key, params = "secret", xllamacpp.CommonParams()
    params.model.path = str(bundled_weights())
    params.n_ctx, params.n_parallel, params.warmup = 2048, 2, False
    params.hostnames, params.port, params.api_keys = ["127.0.0.1"], 0, [key]
    params.verbosity = -1
    server = xllamacpp.Server(params)

    async def ask(monkeypatch: pytest.MonkeyPatch) -> tuple[Prompting, str]:
        monkeypatch.setenv("OPENAI_API_KEY", key)
        model = await connect(ModelConfig(url=f"{server.listening_address}/v1"))
        try:
            policy = StepPolicy(model, PolicyConfig())
            await policy.propose(QUESTION, (), 1, seed=0)
            return model.prompting, policy.renderer.mode
        finally:
            await model.aclose()

    with pytest.MonkeyPatch.context() as patch:
        known, mode = asyncio.run(ask(patch))
    assert known.template is not None
    assert mode == "template"
    assert known.template.frame([]).end_of_turn == "<|im_end|>"


def test_the_embedded_engine_reads_the_template_of_its_file(tmp_path: Path) -> None:
    async def ask() -> Prompting:
        model = await connect(ModelConfig(url="local", concurrency=2, context_tokens=512))
        try:
            return model.prompting
        finally:
            await model.aclose()

    known = asyncio.run(ask())
    assert known.template is not None
    assert Config().policy.mode == "auto"
