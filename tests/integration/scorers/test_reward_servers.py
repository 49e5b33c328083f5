"""What the client of a reward model's server does with replies: rows per mark or per token, texts
that are too long, missing scores, replies that are none."""

import asyncio
import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from rstar_math.config import load_config
from rstar_math.costs import track_cost
from rstar_math.errors import InputError, ModelRejectedError
from rstar_math.scorers.prm import load_prm
from rstar_math.types import Question, Step

ASKED = Question("q", "What is 2 + 3?")
Answer = Callable[[str, dict[str, Any]], tuple[int, dict[str, Any]]]


@contextmanager
def serving(answer: Answer) -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    """The address of a server, and the requests that it got."""
    asked: list[tuple[str, dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say(200, {"data": [{"id": "qwen2.5-math-prm", "owned_by": "vllm"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append((self.path, body))
            self._say(*answer(self.path, body))

        def _say(self, status: int, reply: dict[str, Any]) -> None:
            text = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()


def thoughts(*texts: str) -> list[Step]:
    return [Step(prose=text, kind="thought") for text in texts]


def values(url: str, *prefixes: list[Step], settings: tuple[str, ...] = ()) -> list[float]:
    config = load_config(
        None, [f"search.prm={url}", "search.prm_aggregation=min", "model.max_retries=0", *settings]
    )

    async def work() -> list[float]:
        scorer = await load_prm(config)
        try:
            return await scorer.score(ASKED, prefixes)
        finally:
            await scorer.aclose()

    return asyncio.run(work())


def margin(text: str) -> float:
    """The output for the step that a text ends with."""
    step = text.split("<extra_0>")[-2].rpartition("\n")[2]
    return {"good": 2.0, "bad": -3.0}.get(step, 0.5)


def value(output: float) -> float:
    return 2 / (1 + math.exp(-output)) - 1


def pooled(path: str, body: dict[str, Any], *, per_token: bool) -> tuple[int, dict[str, Any]]:
    """vLLM's /pooling: a row for each mark, or for each token (here: each character)."""
    data = []
    for index, text in enumerate(body["input"]):
        ends = [at + 9 for at in range(len(text)) if text.startswith("<extra_0>", at)]
        rows = [[0.0, margin(text[:end])] for end in ends]
        if per_token:
            rows = [[0.0, 9.0]] * (len(text) - 1) + rows[-1:]
        data.append({"index": index, "data": rows})
    return 200, {"data": data, "usage": {"prompt_tokens": 10 * len(data)}}


@pytest.mark.parametrize("per_token", [False, True])
def test_rows_of_marks_and_of_tokens_give_the_same_scores(per_token: bool) -> None:
    with serving(lambda path, body: pooled(path, body, per_token=per_token)) as (url, asked):
        with track_cost() as cost:
            found = values(url, thoughts("good"), thoughts("good", "bad"), thoughts("good", "fair"))
        assert found == pytest.approx([value(2.0), value(-3.0), value(0.5)])
        assert cost.unscorable == 0
        sent = [len(body["input"]) for _, body in asked]
    if not per_token:
        assert sent == [1, 2], "a test, and one request for the two longest"
        assert cost.scorer_tokens == 30


def test_a_mark_in_a_step_is_no_mark() -> None:
    with serving(lambda path, body: pooled(path, body, per_token=False)) as (url, _):
        assert values(url, thoughts("go<extra_0>od", "bad")) == pytest.approx([value(-3.0)])


def test_a_text_that_is_too_long_leaves_the_others_their_scores() -> None:
    def answer(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if any(len(text) > 2000 for text in body["input"]):
            message = "This model's maximum context length is 512 tokens."
            return 400, {"error": {"message": message, "code": 400}}
        return pooled(path, body, per_token=False)

    with serving(answer) as (url, _), track_cost() as cost:
        found = values(url, thoughts("good"), thoughts("word " * 1000), thoughts("bad"))
    assert found == pytest.approx([value(2.0), 0.0, value(-3.0)])
    assert cost.unscorable == 1


def test_two_tokens_are_read_from_their_log_probabilities() -> None:
    listed = [{"token_id:43": -0.5, "token_id:45": -2.5}, {"token_id:45": -0.1, "token_id:7": -4.0}]

    def answer(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path == "/tokenize":
            return 200, {"tokens": [1, ord(body["prompt"])]}
        assert body["logprob_token_ids"] == [45, 43]
        found = listed[0] if body["prompt"].count("good") else listed[1]
        if "silent" in body["prompt"]:
            found = {"token_id:7": -1.0}
        return 200, {
            "choices": [{"text": "", "logprobs": {"top_logprobs": [found]}}],
            "usage": {"prompt_tokens": 12},
        }

    with serving(answer) as (url, _), track_cost() as cost:
        settings = ("search.prm_format=rlhflow", "search.prm_aggregation=last")
        prefixes = (thoughts("good"), thoughts("other"), thoughts("silent"))
        found = values(url, *prefixes, settings=settings)
    # The good token of the second is not listed: at most as likely as the least of the listed.
    assert found == pytest.approx([value(2.0), value(-3.9), 0.0])
    assert cost.unscorable == 1


@pytest.mark.parametrize(
    "reply",
    [
        {"data": [{"index": 0, "data": []}]},
        {"data": "no"},
        {"data": [{"index": 0, "data": [["x", 1]]}]},
        {"data": []},
        {},
    ],
)
def test_a_reply_without_scores_is_refused_at_the_start(reply: dict[str, Any]) -> None:
    with serving(lambda path, body: (200, reply)) as (url, _), pytest.raises(ModelRejectedError):
        values(url, thoughts("good"))


def test_a_model_with_other_outputs_names_the_option() -> None:
    three = {"data": [{"index": 0, "data": [[1.0, 2.0, 3.0]]}], "usage": {}}
    refused = pytest.raises(InputError, match=r"search\.prm_format")
    with serving(lambda path, body: (200, three)) as (url, _), refused:
        values(url, thoughts("good"))
