"""A model server that answers from a function and can be told to fail."""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Fault = Literal[
    "drop",
    "stall",
    "trickle",
    "garbage",
    "nested",
    "empty",
    "context",
    400,
    401,
    404,
    429,
    500,
    503,
]
"""What a fake server does instead of answering: close the connection, say nothing, send a byte now
and then, answer in something that is not JSON, in JSON nested without end or with no choices, say
that the context is full, or answer with a status."""


class FakeServer:
    """An OpenAI-compatible server on the loopback, from `serving`."""

    def __init__(self, answer: "Answer", model: str, delay_s: float) -> None:
        self.faults: deque[Fault] = deque()
        """What to do to the next requests for completions, one each, before answering again."""
        self.requests: list[dict[str, Any]] = []
        """Bodies of the requests for completions, in order of arrival."""
        self.routes: set[str] = {"/v1/completions", "/v1/chat/completions"}
        """Routes that exist; take one out for a server that lacks it."""
        self.key: str | None = None
        """The key that requests must bring, if any."""
        self.model = model
        self.delay_s = delay_s
        self.answer = answer
        self.stop = threading.Event()
        self.url = ""


Answer = Callable[[Mapping[str, Any]], Sequence[str | None]]
"""A request's body -> the sampled texts; a stop string in a text ends it, as with a real server.
None is a choice without a text."""


@contextmanager
def serving(answer: Answer, *, model: str = "fake", delay_s: float = 0.0) -> Iterator[FakeServer]:
    """A fake server while the block runs; each answer takes `delay_s` seconds."""
    fake = FakeServer(answer, model, delay_s)

    class Handler(_Handler):
        server_state = fake

    http = _Server(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.stop.set()
        http.shutdown()
        http.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    """A server that takes a broken connection for granted."""

    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that are killed are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    """One connection of a fake server."""

    protocol_version = "HTTP/1.1"
    server_state: FakeServer

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """The list of models."""
        if self._refused():
            return
        if self.path != "/v1/models":
            self._send(404, {"error": {"message": "Not Found"}})
            return
        self._send(200, {"data": [{"id": self.server_state.model, "object": "model"}]})

    def do_POST(self) -> None:
        """A completion."""
        fake = self.server_state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._refused():
            return
        if self.path not in fake.routes:
            self._send(404, {"error": {"message": "Not Found"}})
            return
        fake.requests.append(body)
        time.sleep(fake.delay_s)
        if fake.faults:
            self._fail(fake.faults.popleft())
            return
        if body.get("model") != fake.model:
            message = f"The model `{body.get('model')}` does not exist."
            self._send(404, {"error": {"message": message}})
            return
        self._send(200, _answer(self.path, body, list(fake.answer(body))))

    def _refused(self) -> bool:
        """Answer a request with a wrong key."""
        key = self.server_state.key
        if key is None or self.headers.get("Authorization") == f"Bearer {key}":
            return False
        self._send(401, {"error": {"message": "Incorrect API key provided"}})
        return True

    def _fail(self, fault: Fault) -> None:
        """Do what a fault says."""
        if fault == "drop":
            self.close_connection = True
            self.connection.close()
        elif fault == "stall":
            self.server_state.stop.wait()
        elif fault == "trickle":
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            while not self.server_state.stop.wait(0.05):
                self.wfile.write(b" ")
        elif fault == "nested":
            self._send(200, b"[" * 1_000_000)
        elif fault == "context":
            message = "This model's maximum context length is 4096 tokens."
            self._send(400, {"error": {"message": message}})
        elif fault == "garbage":
            self._send(200, b"<html>It works!</html>")
        elif fault == "empty":
            self._send(200, {"object": "text_completion"})
        else:
            self._send(fault, {"error": {"message": f"made to fail with {fault}"}})

    def _send(self, status: int, body: object) -> None:
        """One answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _answer(path: str, body: Mapping[str, Any], texts: Sequence[str | None]) -> dict[str, Any]:
    """The JSON of an answer, texts ended at the first stop string and at `max_tokens` words."""
    choices: list[dict[str, Any]] = []
    tokens = 0
    for index, text in enumerate(texts):
        if text is None:
            choices.append({"index": index, "text": None})
            continue
        ends = [at for stop in body.get("stop", []) if (at := text.find(stop)) >= 0]
        shown = text[: min(ends)] if ends else text
        tokens += len(shown.split())
        cut = len(shown.split()) > body.get("max_tokens", 16)
        choice: dict[str, Any] = {"index": index, "finish_reason": "length" if cut else "stop"}
        if path.endswith("/chat/completions"):
            choice["message"] = {"role": "assistant", "content": shown}
        else:
            choice["text"] = shown
        choices.append(choice)
    prompt = len(str(body.get("prompt") or body.get("messages")).split())
    usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
    return {"object": "text_completion", "choices": choices, "usage": usage}
