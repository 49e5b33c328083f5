"""The server on the embedded model, the real sandbox and the real grader."""

from collections.abc import Iterator

import openai
import pytest

from rstar_math.config import load_config
from rstar_math.serve.requests import ServerLimits
from tests.integration.serve.live import Live, live

TINY = (
    "model.concurrency=2",
    "policy.max_step_tokens=40",
    "search.candidates=2",
    "search.rollouts=1",
    "search.max_depth=3",
)
QUESTION = "Ann has 4 boxes of 6 pens. She gives 5 pens away. How many are left?"


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    config = load_config(None, TINY)
    with live(config=config, limits=ServerLimits(config.search, seconds=100)) as server:
        yield server


def test_a_question_is_searched_for_and_paid_for(server: Live) -> None:
    api = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)
    stream = api.chat.completions.create(
        model="rstar-sc2",
        messages=[{"role": "user", "content": QUESTION}],
        stream=True,
        stream_options={"include_usage": True},
    )
    said, thought, usage, found = "", "", None, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            said += choice.delta.content or ""
            thought += choice.delta.to_dict().get("reasoning_content") or ""  # type: ignore[operator]
            found = choice.to_dict().get("rstar") or found
    assert isinstance(found, dict)
    assert usage is not None
    assert usage.completion_tokens >= found["sampled_tokens"] > 5
    assert usage.prompt_tokens > 300
    assert "tokens/s" in thought
    if found["answer"] is None:
        assert said.startswith("No answer was found")
    else:
        assert f"\\boxed{{{found['answer']}}}" in said
    assert QUESTION in server.get(found["tree"]).text


def test_a_limit_of_time_ends_the_model_s_work(server: Live) -> None:
    wish = {"strategy": "sc@8", "tokens": 10**6, "seconds": 1.0}
    body = {"model": "rstar", "messages": [{"role": "user", "content": QUESTION}], "rstar": wish}
    got = server.post(body).json()["choices"][0]
    assert got["rstar"]["ended"] == "seconds"
    assert got["rstar"]["seconds"] < 10
    server.until("rstar_searching", 0)
