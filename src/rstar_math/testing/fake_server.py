"""A model server that answers from a function, takes its time, and can be told to fail."""

import json
import socket
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from heapq import heapreplace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Sampled:
    """One sampled text as a server gives it out; None for a choice without a text."""

    text: str | None
    tokens: int = 0
    """Words."""
    cut: bool = False
    """Whether it was ended by `max_tokens`."""


def sampled(body: Mapping[str, Any], texts: Sequence[str | None]) -> list[Sampled]:
    """The texts ended at the first stop string and at `max_tokens` words (default 16)."""
    return [_ended(text, body.get("stop", []), body.get("max_tokens", 16)) for text in texts]


def reply(path: str, body: Mapping[str, Any], samples: Sequence[Sampled]) -> dict[str, Any]:
    """The JSON of an answer on a route."""
    choices: list[dict[str, Any]] = []
    for index, one in enumerate(samples):
        choice: dict[str, Any] = {"index": index}
        if one.text is None:
            choices.append(choice | {"text": None})
            continue
        choice["finish_reason"] = "length" if one.cut else "stop"
        if path.endswith("/chat/completions"):
            choice["message"] = {"role": "assistant", "content": one.text}
        else:
            choice["text"] = one.text
        choices.append(choice)
    prompt = len(str(body.get("prompt") or body.get("messages")).split())
    tokens = sum(one.tokens for one in samples)
    usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
    return {"object": "text_completion", "choices": choices, "usage": usage}


def _ended(text: str | None, stops: Sequence[str], max_tokens: int) -> Sampled:
    """A text as far as a server would have sampled it."""
    if text is None:
        return Sampled(None)
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    shown = text[: min(ends)] if ends else text
    tokens = len(shown.split())
    if tokens <= max_tokens:
        return Sampled(shown, tokens)
    return Sampled(" ".join(shown.split(maxsplit=max_tokens)[:max_tokens]), max_tokens, cut=True)


def words(text: str) -> int:
    """A text's tokens if a word is a token."""
    return len(text.split())


@dataclass(frozen=True, slots=True)
class Batching:
    """How a fake server spends its time."""

    slots: int = 256
    """Samples decoded at once."""
    token_s: float = 0.01
    """Seconds a token."""
    prefill_s: float = 0.0
    """Seconds before the first token of a sample, in which it holds a slot."""
    tokens: Callable[[str], int] = words
    """How many tokens a text has."""

    def hold_s(self, text: str) -> float:
        """Seconds that sampling a text holds a slot."""
        return self.prefill_s + self.token_s * self.tokens(text)


class Slots:
    """The slots of one server, from any thread. Times are in seconds on the caller's clock."""

    def __init__(self, batching: Batching) -> None:
        self.batching = batching
        self.spans: list[tuple[float, float]] = []
        """When each sample got its slot and when it gives it back, in order of asking."""
        self._free_at = [0.0] * batching.slots
        self._lock = threading.Lock()

    @property
    def busy_s(self) -> float:
        """Slot-seconds given out so far; over `slots` it is the shortest time for the work."""
        return sum(end - start for start, end in self.spans)

    def take(self, holds_s: Sequence[float], now: float) -> float:
        """When the last of some samples will be done that are asked for at `now` and hold a slot
        for `holds_s`; `now` where there are none."""
        done = now
        with self._lock:
            for hold_s in holds_s:
                start = max(now, self._free_at[0])
                heapreplace(self._free_at, start + hold_s)
                self.spans.append((start, start + hold_s))
                done = max(done, start + hold_s)
        return done

    def clear(self) -> None:
        """Forget what was, as a server that has just been started."""
        with self._lock:
            self.spans.clear()
            self._free_at = [0.0] * self.batching.slots


def utilisation(
    spans: Sequence[tuple[float, float]], slots: int, start: float, end: float, parts: int
) -> list[float]:
    """The share of slots in use, in [0, 1], in each of `parts` equal parts of a time."""
    width = (end - start) / parts
    used = [0.0] * parts
    for begin, finish in spans:
        first = max(0, int((begin - start) / width))
        last = min(parts - 1, int((finish - start) / width))
        for part in range(first, last + 1):
            left = start + part * width
            used[part] += max(0.0, min(finish, left + width) - max(begin, left))
    return [busy / (width * slots) for busy in used]


class PromptCache:
    """Holds at most `blocks` blocks of `block` tokens. From any thread."""

    def __init__(self, *, blocks: int = 1024, block: int = 16) -> None:
        self.queried = 0
        """Tokens looked for so far."""
        self.found = 0
        """Of these, those that were held."""
        self._blocks, self._block = blocks, block
        self._held: OrderedDict[int, None] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, prompt: str) -> int:
        """How many of a prompt's tokens were held; all its whole blocks are then."""
        words = prompt.split()
        found, above, missed = 0, 0, False
        with self._lock:
            for at in range(0, len(words) - self._block + 1, self._block):
                above = hash((above, *words[at : at + self._block]))
                missed = missed or above not in self._held
                found += 0 if missed else self._block
                self._held[above] = None
                self._held.move_to_end(above)
            while len(self._held) > self._blocks:
                self._held.popitem(last=False)
            self.queried += len(words)
            self.found += found
        return found

    def metrics(self, running: int) -> str:
        """What vLLM would say of it at /metrics."""
        return (
            "# HELP vllm:num_requests_running Number of requests in model execution batches.\n"
            f'vllm:num_requests_running{{engine="0",model_name="fake"}} {float(running)}\n'
            'vllm:num_requests_waiting{engine="0",model_name="fake"} 0.0\n'
            f'vllm:prefix_cache_queries_total{{engine="0"}} {float(self.queried)}\n'
            f'vllm:prefix_cache_hits_total{{engine="0"}} {float(self.found)}\n'
        )


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
