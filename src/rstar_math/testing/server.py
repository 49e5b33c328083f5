"""A model server that answers from a function, takes its time, and can be told to fail."""

import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from rstar_math.testing.batching import Batching, Slots
from rstar_math.testing.caching import PromptCache
from rstar_math.testing.replies import Sampled, reply, sampled

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
        self.trouble: Callable[[Mapping[str, Any]], Fault | None] | None = None
        """What to do to a request by its body, for faults that belong to what is asked."""
        self.routes: set[str] = {"/v1/completions"}
        """Routes that exist; "/v1/chat/completions" can be added, for a server that has chat."""
        self.key: str | None = None
        """The key that requests must bring, if any."""
        self.most: int | None = None
        """Most requests in flight; what comes above it is answered with 429."""
        self.connections = 0
        """Connections taken so far."""
        self.refused = 0
        """Requests answered with 429 because of `most`."""
        self.slots: Slots | None = None
        """Where samples are decoded, with continuous batching; times are `time.monotonic`."""
        self.adapters: tuple[str, ...] = ()
        """Further names that it answers to."""
        self.cache: PromptCache | None = None
        """A prefix cache that is modelled, and told of at /metrics."""
        self.model = model
        self.delay_s = delay_s
        self.answer = answer
        self.stop = threading.Event()
        self.url = ""
        self.in_flight = 0
        """Requests for completions under way."""
        self.lock = threading.Lock()

    @property
    def port(self) -> int:
        """Where it listens, for one that takes its place."""
        return int(self.url.rsplit(":", 1)[1].split("/")[0])

    def enter(self) -> bool:
        """Count a request in flight; False where that would be more than `most`."""
        with self.lock:
            if self.most is not None and self.in_flight >= self.most:
                self.refused += 1
                return False
            self.in_flight += 1
            return True

    def leave(self) -> None:
        """Count a request as answered."""
        with self.lock:
            self.in_flight -= 1

    def wait(self, samples: Sequence[Sampled]) -> None:
        """Let the time pass that sampling takes."""
        time.sleep(self.delay_s)
        if self.slots is not None:
            hold_s = self.slots.batching.hold_s
            now = time.monotonic()
            done = self.slots.take([hold_s(one.text or "") for one in samples], now)
            self.stop.wait(max(0.0, done - time.monotonic()))


Answer = Callable[[Mapping[str, Any]], Sequence[str | None]]
"""A request's body -> the sampled texts; a stop string in a text ends it, as with a real server.
None is a choice without a text."""


@contextmanager
def serving(
    answer: Answer,
    *,
    model: str = "fake",
    delay_s: float = 0.0,
    batching: Batching | None = None,
    port: int = 0,
) -> Iterator[FakeServer]:
    """A fake server while the block runs; each answer takes `delay_s` seconds and what `batching`
    says.

    When the block ends, its connections break, also those of requests not yet answered; with its
    `port` another may then take its place.
    """
    fake = FakeServer(answer, model, delay_s)
    fake.slots = None if batching is None else Slots(batching)

    class Handler(_Handler):
        server_state = fake

    http = _Server(("127.0.0.1", port), Handler)
    fake.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.stop.set()
        http.shutdown()
        http.server_close()
        http.hang_up()
        thread.join()


class _Server(ThreadingHTTPServer):
    """A server that takes a broken connection for granted."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, address: tuple[str, int], handler: type["_Handler"]) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Take a connection, and remember it."""
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Break the connections that clients keep open."""
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that are killed are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    """One connection of a fake server."""

    protocol_version = "HTTP/1.1"
    server_state: FakeServer

    def setup(self) -> None:
        """Count the connection."""
        with self.server_state.lock:
            self.server_state.connections += 1
        super().setup()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """The list of models."""
        if self._refused():
            return
        fake = self.server_state
        if self.path == "/metrics" and fake.cache is not None:
            self._send(200, fake.cache.metrics(fake.in_flight).encode())
            return
        if self.path != "/v1/models":
            self._send(404, {"error": {"message": "Not Found"}})
            return
        names = (fake.model, *fake.adapters)
        self._send(200, {"data": [{"id": name, "object": "model"} for name in names]})

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
        if not fake.enter():
            self._send(429, {"error": {"message": "Too many requests in flight"}})
            return
        try:
            self._complete(body)
        finally:
            fake.leave()

    def _complete(self, body: Mapping[str, Any]) -> None:
        """Answer a request for samples, or fail as told."""
        fake = self.server_state
        fault = fake.faults.popleft() if fake.faults else None
        if fault is None and fake.trouble is not None:
            fault = fake.trouble(body)
        if fault is not None:
            time.sleep(fake.delay_s)
            self._fail(fault)
            return
        if body.get("model") not in (fake.model, *fake.adapters):
            message = f"The model `{body.get('model')}` does not exist."
            self._send(404, {"error": {"message": message}})
            return
        if fake.cache is not None:
            fake.cache.take(str(body.get("prompt", "")))
        samples = sampled(body, list(fake.answer(body)))
        fake.wait(samples)
        if fake.stop.is_set():
            self.close_connection = True
            return
        self._send(200, reply(self.path, body, samples))

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
