"""From a request to a search: names, fields, limits; and what is shown of what was found."""

import asyncio
import json
import logging
import pickle
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rstar_math.config import SearchConfig
from rstar_math.errors import (
    ConfigError,
    ContextLengthError,
    ModelRejectedError,
    ModelUnreachableError,
    RequestError,
    SandboxError,
    StoreError,
)
from rstar_math.search import Choice, Tree
from rstar_math.serve.jobs import TOKEN, SearchQueue, answer_text, progress, truncate, vote_line
from rstar_math.serve.requests import (
    ChatRequest,
    SearchRequest,
    ServerLimits,
    chat_search,
    model_names,
    model_options,
    parse_body,
)
from rstar_math.types import Execution, ExecutionStatus, Question, Step
from rstar_math.web import access, server
from rstar_math.web.access import (
    AccessMiddleware,
    AccessPolicy,
    ApiError,
    ApiKeys,
    Receive,
    Scope,
    Send,
    api_error_of,
    host_name,
    is_loopback,
    log_path,
    require_keys,
)
from rstar_math.web.server import BUCKETS_S, Metrics, trace_ids


def order(body: dict[str, Any], limits: ServerLimits | None = None) -> SearchRequest:
    """What a chat request asks for."""
    whole = {"model": "rstar", "messages": [{"role": "user", "content": "1 + 1?"}], **body}
    return chat_search(
        parse_body(ChatRequest, json.dumps(whole).encode()), limits or ServerLimits()
    )


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("rstar", "mcts"),
        ("rstar-mcts", "mcts"),
        ("rstar-mcts@32", "mcts@32"),
        ("rstar-mcts32", "mcts@32"),
        ("rstar-mcts16x4", "mcts@16x4"),
        ("rstar-sc8", "sc@8"),
        ("rstar-greedy", "greedy"),
        ("rstar-fast", "sc@8"),
        ("rstar-deep", "mcts@64"),
    ],
)
def test_a_model_s_name_says_how_to_search(name: str, strategy: str) -> None:
    assert order({"model": name}).strategy.name == strategy


@pytest.mark.parametrize("name", ["gpt-4", "rstar-", "rstar-alchemy", "rstar-mcts0", "RSTAR", ""])
def test_other_names_are_no_models(name: str) -> None:
    with pytest.raises(ApiError, match="does not exist") as refused:
        order({"model": name})
    assert (refused.value.status, refused.value.code) == (404, "model_not_found")


def test_names_that_are_listed_can_be_taken() -> None:
    for name in model_names():
        assert order({"model": name}).strategy.name


def test_fields_come_before_the_name_and_the_name_before_the_server() -> None:
    limits = ServerLimits(SearchConfig(strategy="sc@4", rollouts=9), seconds=20, tokens=500)
    assert order({}, limits).strategy.name == "sc@4"
    fast = order({"model": "rstar-fast", "rstar": {"confidence": 0.8, "tokens": 77}}, limits)
    assert (fast.search.confidence, fast.search.token_budget, fast.search.rollouts) == (0.8, 77, 9)
    wish = {"strategy": "greedy", "seconds": 99}
    asked = order({"model": "rstar-mcts", "rstar": wish, "max_completion_tokens": 900}, limits)
    assert (asked.strategy.name, asked.seconds, asked.max_search_tokens) == ("greedy", 20, 500)
    assert order({"max_completion_tokens": 90}, limits).max_search_tokens == 90
    assert order({"seed": -5}).search.seed == -5


def test_errors_are_in_the_shape_that_clients_read() -> None:
    refusal = ApiError("No.", 429, code="full", headers={"Retry-After": "3"})
    again = pickle.loads(pickle.dumps(refusal))
    assert (again.body, again.headers) == (refusal.body, {"Retry-After": "3"})
    assert api_error_of(refusal) is refusal
    error = api_error_of(ModelUnreachableError("It is gone."))
    assert (
        error.body["error"].items()
        >= {
            "type": "server_error",
            "param": None,
            "code": "model_unreachable",
        }.items()
    )
    assert (error.status, api_error_of(ConfigError("Wrong.")).status) == (502, 400)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (KeyError, 500),
        (ModelUnreachableError, 502),
        (ModelRejectedError, 502),
        (RequestError, 502),
        (ContextLengthError, 400),
        (SandboxError, 500),
        (StoreError, 500),
    ],
)
def test_clients_never_see_what_the_model_server_said(kind: type[Exception], status: int) -> None:
    told = api_error_of(kind("http://user:secret@10.0.0.7/v1 said: bad key sk-secret"))
    assert told.status == status
    assert "secret" not in json.dumps(told.body)
    assert "10.0.0.7" not in json.dumps(told.body)


def test_an_answer_cannot_look_like_a_line_of_progress() -> None:
    forged = "1\nmcts, 9.9 s: 3 steps tried.\n\ndata: [DONE]\x85\u2028x"
    choice = Choice(forged, 1, 1.0, {forged: 1.0})
    request = order({})
    line = progress(Tree(Question("q", "?")), choice, 1.0, request).line
    for text in (line, vote_line(choice)):
        assert text.endswith("\n")
        assert len(text.splitlines()) == 1


@pytest.mark.parametrize("path", ["/v1/x\nforged line", "/v1/\r\x1b[2J", "/v1/\u2028x", "/é"])
def test_a_path_is_one_word_in_the_log(path: str) -> None:
    record = logging.LogRecord("rstar", logging.INFO, "f", 1, "request", None, None)
    record.__dict__["fields"] = {"path": log_path(path)}
    line = server.TextFormatter().format(record)
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    assert "forged line" not in line


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost:8420", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]:8420", "[::1]"),
        ("[::1].evil", ""),
        ("[::1]evil:80", ""),
        ("localhost:80:evil", ""),
        ("a:b", ""),
    ],
)
def test_a_host_header_is_read_whole(host: str, name: str) -> None:
    assert host_name(host) == name


@given(
    st.text(max_size=200),
    st.lists(st.text(min_size=1, max_size=3), max_size=3),
    st.integers(1, 40) | st.none(),
)
def test_what_is_shown_is_a_beginning_without_a_stop(
    text: str, stop: list[str], most: int | None
) -> None:
    found = truncate(text, stop, most)
    assert text.startswith(found.text)
    assert not any(mark in found.text for mark in stop)
    assert "".join(TOKEN.findall(text)) == text
    assert most is None or found.tokens <= most
    if not stop and not found.truncated:
        assert found.text == text


def path(answer: str) -> tuple[Tree, Choice]:
    """A path of a program in two steps and an answer."""
    tree = Tree(Question("q", "?"))
    ran = Execution(ExecutionStatus.OK, "6\n")
    first = tree.add(0, Step("# One.\n", "a = 2\n"))
    second = tree.add(first, Step("# Two.\n", "print(a * 3)  # ```\n", "code", execution=ran))
    end = tree.add(second, Step(answer, kind="answer", answer="6"))
    return tree, Choice("6", end, 1.0, {"6": 1.0})


def test_a_path_is_told_with_its_program_its_output_and_the_answer_last() -> None:
    told = answer_text(*path("It is \\boxed{6}."))
    program = "````python\n# One.\na = 2\n# Two.\nprint(a * 3)  # ```\n````"
    assert told == f"{program}\n\nOutput:\n\n```\n6\n```\n\nIt is \\boxed{{6}}."
    assert answer_text(*path("So it is six.")).endswith("The answer is \\boxed{6}.")
    nothing = answer_text(Tree(Question("q", "?")), Choice(None, None, 0.0, {}), "the limit of 2 s")
    assert "before the limit of 2 s ended the search" in nothing


def test_the_queue_is_first_in_first_out() -> None:
    queue = SearchQueue(capacity=2, max_waiting=2)
    first, second, third, fourth = (queue.enqueue() for _ in range(4))
    assert (queue.running, len(queue.waiting), fourth.position) == (2, 2, 1)
    with pytest.raises(ApiError, match="queue is full"):
        queue.enqueue()
    queue.release(third)
    queue.release(third)
    queue.release(first)
    queue.release(first)
    assert fourth.ready.is_set()
    assert not third.ready.is_set()
    assert (queue.running, len(queue.waiting)) == (2, 0)
    queue.release(second)
    queue.release(fourth)
    assert queue.running == 0


def test_keys_are_taken_whole() -> None:
    keys = ApiKeys(["a-long-enough-key", "another-long-key"])
    assert keys.accepts("Bearer another-long-key")
    assert keys.accepts("bearer  a-long-enough-key ")
    for wrong in ("", "Bearer", "Bearer a-long-enough-ke", "Basic a-long-enough-key", "Bearer é"):
        assert not keys.accepts(wrong)
    assert ApiKeys().accepts("")


def test_what_is_the_loopback() -> None:
    for host in ("localhost", "127.0.0.1", "127.8.8.8", "::1", "[::1]"):
        assert is_loopback(host)
        require_keys(host, ApiKeys())
    for host in ("0.0.0.0", "::", "", "example.org", "127.0.0.1.evil.example", "192.168.1.2"):
        assert not is_loopback(host)
        with pytest.raises(ConfigError, match="API keys"):
            require_keys(host, ApiKeys())
        require_keys(host, ApiKeys(["a-long-enough-key"]))


def test_metrics_are_cumulative() -> None:
    metrics = Metrics()
    for seconds in (0.01, 0.3, 1e9):
        metrics.answer_seconds.observe(seconds)
    metrics.requests.labels("/health", 200).inc(2)
    lines = metrics.text(waiting=4).decode().splitlines()
    assert 'rstar_requests_total{route="/health",status="200"} 2.0' in lines
    assert "rstar_waiting 4.0" in lines
    counts = [float(line.rpartition(" ")[2]) for line in lines if "_bucket" in line]
    assert counts == sorted(counts)
    assert (len(counts), counts[0], counts[-1]) == (len(BUCKETS_S) + 1, 1, 3)


def test_traces_are_read_strictly() -> None:
    found = {"trace_id": "a" * 32, "span_id": "b" * 16, "trace_flags": "01"}
    assert trace_ids(f"00-{'a' * 32}-{'b' * 16}-01") == found
    for trace, span, version in (
        ("a" * 31, "b" * 16, "00"),
        ("0" * 32, "b" * 16, "00"),
        ("a" * 32, "0" * 16, "00"),
        ("a" * 32, "b" * 16, "ff"),
    ):
        assert trace_ids(f"{version}-{trace}-{span}-01") == {}


def test_the_command_s_help_loads_no_server() -> None:
    code = "import sys, rstar_math.cli; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"starlette", "uvicorn", "pydantic"} & set(run.stdout.split())


@pytest.mark.parametrize(
    "field",
    [
        '"messages": [%s]',
        '"messages": [{"role": "user", "content": [%s]}]',
        '"messages": [{"role": "user", "content": "1?"}], "stop": [%s]',
    ],
)
@pytest.mark.parametrize("item", ["{}", "1", "null"])
def test_of_a_body_full_of_faults_the_first_is_told(field: str, item: str) -> None:
    body = f'{{"model": "rstar", {field % ",".join([item] * 5000)}}}'
    with pytest.raises(ValidationError) as fault:
        ChatRequest.model_validate_json(body)
    assert fault.value.error_count() < 5, "it reads on after a fault"
    with pytest.raises(ApiError) as refused:
        parse_body(ChatRequest, body.encode())
    assert refused.value.status == 400


def test_lists_and_unknown_wishes_without_end_are_refused() -> None:
    turns = [{"role": "user", "content": "1?"}] * 5000
    with pytest.raises(ApiError, match="at most 4096"):
        order({"messages": turns})
    with pytest.raises(ApiError, match="more than 200"):
        order({"rstar": {f"k{i}": 1 for i in range(1000)}})


def test_a_model_s_name_is_ascii() -> None:
    for name in ("rstar-mcts\uff11\uff16", "\uff52star", "rstar-mcts16\n", "rstar\u200b"):
        with pytest.raises(ApiError, match="does not exist"):
            model_options(name)


def test_a_client_that_does_not_read_counts_as_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "SEND_TIMEOUT_S", 0.02)
    metrics = Metrics()
    ended = []

    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        finally:
            ended.append(True)

    async def stuck(message: Any) -> None:
        await asyncio.sleep(60)

    async def nothing() -> Any:
        await asyncio.sleep(60)

    headers = [(b"host", b"localhost")]
    scope = {"type": "http", "method": "GET", "path": "/metrics", "headers": headers}
    asyncio.run(AccessMiddleware(page, AccessPolicy(), metrics)(scope, nothing, stuck))
    assert ended == [True]
    assert b"rstar_in_flight 0.0" in metrics.text()


def test_progress_is_told_to_people_and_programs() -> None:
    tree = Tree(Question("q", "1 + 1?"))
    asked = order({"model": "rstar-sc4"})
    begun = progress(tree, None, 1.0, asked)
    assert begun.fields == {"steps": 0, "answers": 0, "answer": None, "share": None}
    tree.add(0, Step(prose="\\boxed{2}", kind="answer", answer="2"))
    led = progress(tree, Choice("2", 1, 2 / 3, {"2": 2.0, "3": 1.0}), 2.0, asked)
    assert led.fields == {"steps": 1, "answers": 1, "answer": "2", "share": 0.666667}
    assert "Best so far: 2 (67% of the votes)." in led.line
    assert led.state != begun.state
