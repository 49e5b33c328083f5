"""What the server does under pressure: clients that leave, limits, hostile requests."""

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest

from rstar_math.config import SearchConfig
from rstar_math.serve.app import Capacity
from rstar_math.serve.requests import ServerLimits
from rstar_math.web.access import AccessPolicy
from tests.integration.serve.live import ASK, Adder, Live, events, live

LONG = ServerLimits(SearchConfig(rollouts=1000, candidates=4, max_depth=4), seconds=60)
CHAT = {"model": "rstar", "messages": ASK}


def leave(server: Live, body: dict[str, Any], seconds: float) -> None:
    """Ask, and hang up after a while."""
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/chat/completions", json=body, timeout=seconds)


def leave_stream(server: Live, body: dict[str, Any], seconds: float) -> None:
    """Ask for a stream, read from it for a while and hang up."""
    end = time.monotonic() + seconds
    url = f"{server.url}/chat/completions"
    with httpx.stream("POST", url, json={**body, "stream": True}, timeout=10) as response:
        for _ in response.iter_lines():
            if time.monotonic() > end:
                return


@pytest.mark.parametrize("hang_up", [leave, leave_stream])
@pytest.mark.parametrize("n", [1, 3])
def test_who_leaves_ends_the_search(
    hang_up: Callable[[Live, dict[str, Any], float], None], n: int
) -> None:
    policy = Adder(0.05)
    ask = {**CHAT, "n": n, "rstar": {"strategy": "sc@900", "tokens": 10**7}}
    with live(policy, limits=LONG) as server:
        hang_up(server, ask, 0.7)
        server.until("rstar_searching", 0)
        seen = policy.calls
        assert seen > 3
        time.sleep(0.5)
        assert policy.calls == seen, "the model was asked after the client had left"
        server.until("rstar_in_flight", 1)
        assert 'searches_total{ended="client left"}' in server.get("/metrics").text


def test_who_leaves_the_line_is_never_searched_for() -> None:
    policy = Adder(0.05)
    with live(policy, limits=LONG, capacity=Capacity(concurrency=1)) as server:
        first = threading.Thread(target=leave, args=(server, _endless("Add 1 and 2."), 4.0))
        first.start()
        server.until("rstar_searching", 1)
        leave(server, _endless("Add 3 and 4."), 0.5)
        server.until("rstar_waiting", 0)
        first.join()
        server.until("rstar_searching", 0)
        assert set(policy.questions) == {"Add 1 and 2."}


def _endless(question: str) -> dict[str, Any]:
    """A search that only a limit ends."""
    return {
        "model": "rstar",
        "messages": [{"role": "user", "content": question}],
        "rstar": {"strategy": "sc@8", "tokens": 10**8},
    }


def test_a_full_line_is_told_when_to_come_back() -> None:
    with live(Adder(0.05), limits=LONG, capacity=Capacity(concurrency=1, queue=1)) as server:
        asking = [
            threading.Thread(target=server.post, args=(_timed(2.0),), daemon=True) for _ in range(2)
        ]
        for thread in asking:
            thread.start()
        server.until("rstar_waiting", 1)
        for stream in (False, True):
            refused = server.post({**CHAT, "stream": stream})
            assert refused.status_code == 429
            assert refused.json()["error"]["type"] == "rate_limit_error"
            assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert server.get("/health").json()["waiting"] == 1
        for thread in asking:
            thread.join(10)
        assert server.post(_timed(0.2)).status_code == 200


def _timed(seconds: float) -> dict[str, Any]:
    return {**_endless("Add 20 and 22."), "rstar": {"tokens": 10**8, "seconds": seconds}}


def test_in_line_a_stream_says_so() -> None:
    with live(Adder(0.05), limits=LONG, capacity=Capacity(concurrency=1)) as server:
        first = threading.Thread(target=server.post, args=(_timed(1.5),))
        first.start()
        server.until("rstar_searching", 1)
        text = server.post({**_timed(0.3), "stream": True}).text
        first.join()
    thoughts = [c["choices"][0]["delta"].get("reasoning_content", "") for c in events(text)]
    assert any("queue" in thought for thought in thoughts)
    assert "Best so far: 42" in "".join(thoughts)


@pytest.mark.parametrize("strategy", ["sc@8", "mcts@4x200"])
def test_a_limit_of_time_gives_the_best_so_far(strategy: str) -> None:
    with live(Adder(0.02), limits=LONG) as server:
        wish = {"strategy": strategy, "seconds": 0.8, "tokens": 10**8}
        started = time.monotonic()
        got = server.post({**CHAT, "rstar": wish}).json()["choices"][0]
        assert time.monotonic() - started < 2.5
    assert got["rstar"]["ended"] == "seconds"
    assert got["rstar"]["answer"] == "42"
    assert got["message"]["content"].endswith("\\boxed{42}.")


def test_a_limit_of_tokens_ends_the_search_and_is_no_budget_to_spend() -> None:
    with live(Adder(0.02), limits=LONG) as server:
        wish = {"strategy": "sc@8", "tokens": 10**6}
        got = server.post({**CHAT, "max_completion_tokens": 2000, "rstar": wish}).json()
        assert got["choices"][0]["rstar"]["ended"] == "tokens"
        assert 2000 <= got["usage"]["completion_tokens"] < 20_000
        easy = server.post({**CHAT, "model": "rstar-sc2", "max_completion_tokens": 2000}).json()
        assert easy["choices"][0]["rstar"]["ended"] == "finished"
        assert easy["usage"]["completion_tokens"] < 200


def test_the_end_of_the_server_gives_the_best_so_far() -> None:
    got: list[Any] = []
    with live(Adder(0.02), limits=LONG) as server:
        ask = {**CHAT, "rstar": {"strategy": "sc@8", "tokens": 10**8}}
        thread = threading.Thread(target=lambda: got.append(server.post(ask).json()))
        thread.start()
        server.until("rstar_searching", 1)
        time.sleep(0.5)
    thread.join(10)
    assert got[0]["choices"][0]["rstar"]["ended"] == "shutdown"
    assert got[0]["choices"][0]["rstar"]["answer"] == "42"


def test_large_and_odd_bodies_are_refused() -> None:
    with live(Adder(), access=AccessPolicy(body_bytes=2000)) as server:
        large = {**CHAT, "user": "x" * 3000}
        assert server.post(large).status_code == 413
        chunks = iter([b'{"model": "', b"x" * 3000])
        headers = {"Content-Type": "application/json"}
        url = f"{server.url}/chat/completions"
        assert httpx.post(url, content=chunks, headers=headers).status_code == 413
        assert httpx.post(url, data={"model": "rstar"}).status_code == 415
        for body in (b"", b"{", b"[]", b'"x"', b"[" * 1500, b"\xff\xfe", b'{"model":"\\ud83d"}'):
            refused = httpx.post(url, content=body, headers=headers)
            assert refused.status_code == 400, body
            assert refused.json()["error"]["type"] == "invalid_request_error"
        assert server.get("/v1/chat/completions").status_code == 405
        assert server.get("/nowhere").json()["error"]["code"] == "unknown_route"
        assert server.post(CHAT).status_code == 200


def test_questions_that_cannot_be_asked() -> None:
    with live(Adder()) as server:
        for text in ("", "  \n", "a\x00b", "x" * 30_000):
            refused = server.post({**CHAT, "messages": [{"role": "user", "content": text}]})
            assert refused.status_code == 400
        only = [{"role": "system", "content": "Add 1 and 2."}]
        assert server.post({**CHAT, "messages": only}).json()["error"]["code"] == "no_question"
        fields: tuple[dict[str, Any], ...] = (
            {"tools": [{}]},
            {"logprobs": True},
            {"response_format": {"type": "json"}},
        )
        for field in fields:
            refused = server.post({**CHAT, **field})
            assert refused.json()["error"]["param"] == next(iter(field))
        harmless = {"tools": [], "temperature": 0.3, "response_format": {"type": "text"}}
        assert server.post({**CHAT, **harmless, "user": "me"}).status_code == 200


def test_pages_of_other_sites_may_not_ask() -> None:
    with live(Adder(), access=AccessPolicy(origins=frozenset({"https://mine.example"}))) as server:
        foreign = server.post(CHAT, headers={"Origin": "https://evil.example"})
        assert foreign.status_code == 403
        assert "Access-Control-Allow-Origin" not in foreign.headers
        assert server.post(CHAT, headers={"Origin": "null"}).status_code == 403
        rebound = server.get("/v1/models", headers={"Host": "evil.example"})
        assert rebound.json()["error"]["code"] == "foreign_host"
        own = server.post(CHAT, headers={"Origin": server.root})
        assert own.status_code == 200
        mine = server.post(CHAT, headers={"Origin": "https://mine.example"})
        assert mine.headers["Access-Control-Allow-Origin"] == "https://mine.example"
        ask = {"Origin": "https://mine.example", "Access-Control-Request-Method": "POST"}
        url = f"{server.url}/chat/completions"
        assert httpx.options(url, headers=ask).status_code == 204


def test_the_tree_of_an_answer_has_a_page() -> None:
    with live(Adder(), capacity=Capacity(trees=2)) as server:
        text = "<script>alert(1)</script> Add 20 and 22."
        ask = {**CHAT, "messages": [{"role": "user", "content": text}]}
        got = server.post(ask)
        path = got.json()["choices"][0]["rstar"]["tree"]
        assert got.headers["X-Rstar-Tree"] == path
        assert len(path) > len("/trees/") + 30
        page = server.get(path)
        assert page.status_code == 200
        assert "<script>alert" not in page.text
        assert "\\u003cscript\\u003ealert" in page.text
        assert "sandbox" in page.headers["Content-Security-Policy"]
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        for _ in range(2):
            server.post(CHAT)
        assert server.get(path).status_code == 404
        assert server.get("/trees/..%2f..%2fetc").status_code == 404
        assert server.metric("rstar_trees_kept") == 2


def test_a_reader_that_stops_reading_holds_no_seat() -> None:
    policy = Adder(0.01)
    with live(policy, limits=LONG, capacity=Capacity(concurrency=1)) as server:
        body = json.dumps({**_timed(0.5), "n": 8, "stream": True}).encode()
        port = int(server.root.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            head = (
                f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:{port}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            slow.sendall(head.encode() + body)
            server.until("rstar_searching", 1)
            server.until("rstar_searching", 0)
            assert server.post({**CHAT, "model": "rstar-greedy"}).status_code == 200
        server.until("rstar_in_flight", 1)


def _connected(server: Live, count: int, said: bytes = b"") -> list[socket.socket]:
    """Connections on which only this was said."""
    port = int(server.root.rpartition(":")[2])
    opened = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    for each in opened:
        each.settimeout(5)
        each.sendall(said)
    return opened


def test_connections_on_which_nothing_comes_are_broken() -> None:
    with live(Adder(0.1), limits=LONG, head_s=0.4) as server:
        idle = _connected(server, 20) + _connected(server, 20, b"POST /v1/models HTTP/1.1\r\nX-A:")
        assert server.post(_timed(1.2)).status_code == 200, "one under way was broken"
        for each in idle:
            with suppress(ConnectionResetError):
                assert each.recv(100) == b""
            each.close()
        with httpx.Client() as client:
            for _ in range(4):
                assert client.get(f"{server.root}/health").status_code == 200
                time.sleep(0.15)


def test_more_connections_than_there_is_room_for_are_told_so() -> None:
    with live(Adder(), most=10) as server:
        idle = _connected(server, 10)
        time.sleep(0.2)
        assert server.get("/health").status_code == 503
        for each in idle:
            each.close()
        time.sleep(0.2)
        assert server.get("/health").status_code == 200


def test_a_head_without_end_is_refused() -> None:
    with live(Adder()) as server:
        (one,) = _connected(server, 1, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: ")
        with suppress(ConnectionError):
            for _ in range(64):
                one.sendall(b"x" * 16_384)
            assert one.recv(100).startswith(b"HTTP/1.1 400")
        one.close()
        assert server.get("/health").status_code == 200
