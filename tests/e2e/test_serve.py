"""`rstar serve` as a person runs it, before a fake model server."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from rstar_math.testing import FakeServer, serving
from tests.e2e.adder import answer
from tests.e2e.rstar import COMMAND, rstar

ASK = {"model": "rstar", "messages": [{"role": "user", "content": "Add 20 and 22."}]}
FEW = ("--set", "search.rollouts=2", "--set", "search.candidates=3")


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with serving(answer) as server:
        yield server


@contextmanager
def served(
    fake: FakeServer, *args: object, env: dict[str, str] | None = None
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """The process and its address."""
    command = [*COMMAND, "serve", "--model", fake.url, "--port", "0", *FEW, *map(str, args)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        match = re.search(r"http://[^ \"]+/v1", line)
        assert match, line
        yield process, match[0]
    finally:
        process.kill()
        process.communicate(timeout=30)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_answers_and_ends_when_told_to(fake: FakeServer, number: int, code: int) -> None:
    with served(fake) as (process, url):
        got = httpx.post(f"{url}/chat/completions", json=ASK, timeout=60).json()
        assert got["choices"][0]["rstar"]["answer"] in ("42", "43", "44")
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == code
        assert "Traceback" not in said
        assert "nothing was saved" not in said
        assert "POST" in said
        assert "20 and 22" not in said


def test_the_log_is_json_when_asked_for(fake: FakeServer) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with served(fake, "--json-logs") as (process, url):
        httpx.post(f"{url}/chat/completions", json=ASK, timeout=60, headers={"traceparent": trace})
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    entries = [json.loads(line) for line in said.splitlines()]
    (entry,) = (entry for entry in entries if entry.get("path") == "/v1/chat/completions")
    assert entry["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert (entry["status"], entry["strategy"], entry["severity"]) == (200, "mcts", "INFO")


def test_others_are_let_in_with_a_key_only(fake: FakeServer, tmp_path: Path) -> None:
    alone = rstar("serve", "--model", fake.url, "--host", "0.0.0.0")
    assert alone.returncode == 2
    assert "API keys" in alone.stderr
    keys = tmp_path / "keys"
    keys.write_text("short\n")
    weak = rstar("serve", "--model", fake.url, "--api-keys", keys)
    assert weak.returncode == 2
    assert "16 characters" in weak.stderr
    env = {"RSTAR_API_KEYS": "0123456789abcdef"}
    with served(fake, "--host", "0.0.0.0", env=env) as (_, url):
        assert httpx.get(f"{url}/models").status_code == 401
        key = {"Authorization": "Bearer 0123456789abcdef"}
        assert httpx.get(f"{url}/models", headers=key).status_code == 200


def test_an_address_that_is_taken_is_a_sentence(fake: FakeServer) -> None:
    run = rstar("serve", "--model", fake.url, "--port", fake.port)
    assert run.returncode == 2
    assert "--port" in run.stderr
