"""Our OpenAPI description against what the server does, and bodies that nobody would send."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import checks

from rstar_math.serve.openapi import description
from tests.integration.serve.live import ASK, Adder, Live, live

schema = schemathesis.openapi.from_dict(description())
QUICK = settings(
    max_examples=40, deadline=None, suppress_health_check=[*HealthCheck], derandomize=True
)
KEPT = (
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
)
"""What is checked. Not that all data of the schema's shape is taken: a question may be empty, a
model unknown."""


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live(Adder()) as server:
        yield server


@schema.parametrize()
@QUICK
def test_the_server_does_what_its_description_says(
    case: "schemathesis.Case[Any]", server: Live
) -> None:
    case.call_and_validate(base_url=server.root, checks=list(KEPT), timeout=30)


def test_the_description_is_served_and_names_every_route(server: Live) -> None:
    served = server.get("/openapi.json").json()
    assert served == json.loads(json.dumps(description()))
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models"} <= set(served["paths"])


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = (
    "model", "messages", "prompt", "n", "stop", "seed", "max_tokens", "max_completion_tokens",
    "stream", "stream_options", "rstar", "tools", "response_format", "logprobs", "best_of",
)  # fmt: skip


@given(
    path=st.sampled_from(["/v1/chat/completions", "/v1/completions"]),
    good=st.booleans(),
    body=st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=5),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[*HealthCheck])
def test_no_json_makes_the_server_fail(
    server: Live, path: str, good: bool, body: dict[str, object]
) -> None:
    whole = {"model": "rstar-greedy", "messages": ASK, "prompt": "Add 1 and 2."} if good else {}
    content = json.dumps({**whole, **body}).encode()
    _send(server, path, content)


@given(content=st.binary(max_size=300))
@settings(max_examples=150, deadline=None, suppress_health_check=[*HealthCheck])
def test_no_bytes_make_the_server_fail(server: Live, content: bytes) -> None:
    _send(server, "/v1/chat/completions", content)


def _send(server: Live, path: str, content: bytes) -> None:
    """Send a body; it is answered, or refused as OpenAI would."""
    headers = {"Content-Type": "application/json"}
    got = httpx.post(f"{server.root}{path}", content=content, headers=headers, timeout=30)
    assert got.status_code in (200, 400, 404), got.text
    if got.status_code != 200:
        error = got.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"].endswith(".")
    assert server.get("/health").json()["searching"] == 0
