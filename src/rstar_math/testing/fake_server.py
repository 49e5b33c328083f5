"""A fake OpenAI-compatible model server: answers from a function, with delays and faults."""

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
from math import exp, log
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Sampled:
    """One sampled text."""

    text: str | None
    """None for a choice without a text."""
    tokens: int = 0
    """Number of tokens; every word is one token."""
    truncated: bool = False
    """Whether the text was truncated at `max_tokens`."""


def truncate_samples(body: Mapping[str, Any], texts: Sequence[str | None]) -> list[Sampled]:
    """The texts, truncated at the first stop string and at `max_tokens` words (default 16)."""
    return [_truncate(text, body.get("stop", []), body.get("max_tokens", 16)) for text in texts]


def response_body(
    path: str,
    body: Mapping[str, Any],
    samples: Sequence[Sampled],
    logprob: Callable[[str], float] | None = None,
) -> dict[str, Any]:
    """The JSON response of a route to a request body.

    `logprob` gives the log-probability of a word, for requests with the field `logprobs`.
    """
    choices: list[dict[str, Any]] = []
    for index, sample in enumerate(samples):
        choice: dict[str, Any] = {"index": index}
        if sample.text is None:
            choices.append(choice | {"text": None})
            continue
        choice["finish_reason"] = "length" if sample.truncated else "stop"
        if logprob is not None and body.get("logprobs"):
            values = [logprob(word) for word in sample.text.split()]
            choice["logprobs"] = _logprobs(path, values)
        if path.endswith("/chat/completions"):
            choice["message"] = {"role": "assistant", "content": sample.text}
        else:
            choice["text"] = sample.text
        choices.append(choice)
    prompt = count_words(str(body.get("prompt") or body.get("messages")))
    tokens = sum(sample.tokens for sample in samples)
    usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
    return {"object": "text_completion", "choices": choices, "usage": usage}


def _logprobs(path: str, values: Sequence[float]) -> dict[str, Any]:
    """The field `logprobs` of a choice. At each position two tokens share the probability."""
    tops = [(value, log(max(1e-9, 1 - exp(value)))) for value in values]
    if path.endswith("/chat/completions"):
        pairs = [[{"token": "t", "logprob": value} for value in top] for top in tops]
        return {"content": [pair[0] | {"top_logprobs": pair} for pair in pairs]}
    words = {"tokens": ["t"] * len(values), "token_logprobs": list(values)}
    return words | {"top_logprobs": [{"t": top[0], "u": top[1]} for top in tops]}


def _truncate(text: str | None, stops: Sequence[str], max_tokens: int) -> Sampled:
    if text is None:
        return Sampled(None)
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    sampled = text[: min(ends)] if ends else text
    tokens = count_words(sampled)
    if tokens <= max_tokens:
        return Sampled(sampled, tokens)
    first_words = sampled.split(maxsplit=max_tokens)[:max_tokens]
    return Sampled(" ".join(first_words), max_tokens, truncated=True)


def count_words(text: str) -> int:
    """The number of words of a text."""
    return len(text.split())


@dataclass(frozen=True, slots=True)
class Batching:
    """The timing of a server with continuous batching."""

    slots: int = 256
    """Maximum number of samples decoded at once."""
    token_s: float = 0.01
    """Seconds per token."""
    prefill_s: float = 0.0
    """Seconds before the first token of a sample; the sample occupies a slot meanwhile."""
    tokens: Callable[[str], int] = count_words
    """Text -> number of tokens."""

    def duration_s(self, text: str) -> float:
        """Seconds for which a sample occupies a slot."""
        return self.prefill_s + self.token_s * self.tokens(text)


class Slots:
    """The decoding slots of one server. Thread-safe. Times are seconds on the caller's clock."""

    def __init__(self, batching: Batching) -> None:
        self.batching = batching
        self.spans: list[tuple[float, float]] = []
        """Start and end of each sample, in the order of the requests."""
        self._free_at = [0.0] * batching.slots
        self._lock = threading.Lock()

    @property
    def busy_s(self) -> float:
        """Slot-seconds used so far. Divided by `slots` it is the minimum time for the work."""
        return sum(end - start for start, end in self.spans)

    def schedule(self, durations_s: Sequence[float], now: float) -> float:
        """Schedule samples that are requested at `now`, and return the time when all are done."""
        done = now
        with self._lock:
            for duration_s in durations_s:
                start = max(now, self._free_at[0])
                heapreplace(self._free_at, start + duration_s)
                self.spans.append((start, start + duration_s))
                done = max(done, start + duration_s)
        return done

    def clear(self) -> None:
        """Reset to the state of a new server."""
        with self._lock:
            self.spans.clear()
            self._free_at = [0.0] * self.batching.slots


def utilisation(
    spans: Sequence[tuple[float, float]], slots: int, start: float, end: float, parts: int
) -> list[float]:
    """The share of occupied slots, in [0, 1], in each of `parts` equal parts of a time span."""
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
    """A model of a prefix cache with least-recently-used eviction. Thread-safe."""

    def __init__(self, *, max_blocks: int = 1024, block_tokens: int = 16) -> None:
        """The cache holds `max_blocks` blocks of `block_tokens` tokens. A word is one token."""
        self.queried_tokens = 0
        """Prompt tokens looked up so far."""
        self.hit_tokens = 0
        """Prompt tokens found in the cache so far."""
        self._max_blocks, self._block_tokens = max_blocks, block_tokens
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self._lock = threading.Lock()

    def look_up(self, prompt: str) -> int:
        """The number of cached tokens at the start of a prompt. Caches all its whole blocks."""
        words, size = prompt.split(), self._block_tokens
        hits, prefix, missed = 0, 0, False
        with self._lock:
            for at in range(0, len(words) - size + 1, size):
                prefix = hash((prefix, *words[at : at + size]))
                missed = missed or prefix not in self._blocks
                hits += 0 if missed else size
                self._blocks[prefix] = None
                self._blocks.move_to_end(prefix)
            while len(self._blocks) > self._max_blocks:
                self._blocks.popitem(last=False)
            self.queried_tokens += len(words)
            self.hit_tokens += hits
        return hits

    def metrics(self, running: int) -> str:
        """The metrics in the format of vLLM's /metrics, with the number of running requests."""
        return (
            "# HELP vllm:num_requests_running Number of requests in model execution batches.\n"
            f'vllm:num_requests_running{{engine="0",model_name="fake"}} {float(running)}\n'
            'vllm:num_requests_waiting{engine="0",model_name="fake"} 0.0\n'
            f'vllm:prefix_cache_queries_total{{engine="0"}} {float(self.queried_tokens)}\n'
            f'vllm:prefix_cache_hits_total{{engine="0"}} {float(self.hit_tokens)}\n'
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
"""An injected fault of the server.

- "drop": closes the connection
- "stall": sends nothing
- "trickle": sends one byte from time to time
- "garbage": sends a body that is not JSON
- "nested": sends JSON that is nested too deeply
- "empty": sends a response without choices
- "context": reports that the context length is exceeded
- a number: sends an error with this HTTP status
"""


class FakeServer:
    """An OpenAI-compatible server on the loopback interface, started by `serving`."""

    def __init__(self, answer: "SampleTexts", model: str, delay_s: float) -> None:
        self.faults: deque[Fault] = deque()
        """Faults of the next completion requests, one per request."""
        self.requests: list[dict[str, Any]] = []
        """Bodies of all completion requests, in order of arrival."""
        self.fault_for: Callable[[Mapping[str, Any]], Fault | None] | None = None
        """Request body -> the fault of this request, or None for an answer."""
        self.routes: set[str] = {"/v1/completions"}
        """Available routes. Add "/v1/chat/completions" for a server with chat."""
        self.key: str | None = None
        """The required API key; None if none is required."""
        self.max_in_flight: int | None = None
        """Maximum number of requests in flight; further requests get status 429. None: no limit."""
        self.connections = 0
        """Number of accepted connections."""
        self.refused = 0
        """Number of requests that were refused because of `max_in_flight`."""
        self.slots: Slots | None = None
        """The decoding slots, with continuous batching. Their clock is `time.monotonic`."""
        self.logprob: Callable[[str], float] | None = None
        """Word -> its log-probability; None for a server that returns none."""
        self.adapters: tuple[str, ...] = ()
        """Additional model names."""
        self.cache: PromptCache | None = None
        """A simulated prefix cache, reported at /metrics."""
        self.model = model
        self.delay_s = delay_s
        self.answer = answer
        self.stop = threading.Event()
        self.url = ""
        self.in_flight = 0
        """Number of completion requests in progress."""
        self.lock = threading.Lock()

    @property
    def port(self) -> int:
        """The TCP port. Another server can use it after this one has stopped."""
        return int(self.url.rsplit(":", 1)[1].split("/")[0])

    def begin_request(self) -> bool:
        """Count a request as in flight; False if that exceeds `max_in_flight`."""
        with self.lock:
            if self.max_in_flight is not None and self.in_flight >= self.max_in_flight:
                self.refused += 1
                return False
            self.in_flight += 1
            return True

    def end_request(self) -> None:
        """Count a request as finished."""
        with self.lock:
            self.in_flight -= 1

    def wait(self, samples: Sequence[Sampled]) -> None:
        """Sleep for the time that sampling takes."""
        time.sleep(self.delay_s)
        if self.slots is not None:
            duration_s = self.slots.batching.duration_s
            now = time.monotonic()
            done = self.slots.schedule([duration_s(s.text or "") for s in samples], now)
            self.stop.wait(max(0.0, done - time.monotonic()))


SampleTexts = Callable[[Mapping[str, Any]], Sequence[str | None]]
"""Request body -> the sampled texts. A stop string ends a text. None is a choice without a text."""


@contextmanager
def serving(
    answer: SampleTexts,
    *,
    model: str = "fake",
    delay_s: float = 0.0,
    batching: Batching | None = None,
    port: int = 0,
) -> Iterator[FakeServer]:
    """Run a fake server during a `with` block.

    Each response is delayed by `delay_s` seconds and by the time of `batching`. At the end of the
    block all connections are closed, including those of unanswered requests. The port is then free
    for another server.
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
        http.close_connections()
        thread.join()


class _Server(ThreadingHTTPServer):
    """An HTTP server that ignores broken connections."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, address: tuple[str, int], handler: type["_Handler"]) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Accept and store a connection."""
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        self._open.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        """Close the connections that clients keep open."""
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore the error: tests kill clients."""


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
        """Log nothing."""

    def do_GET(self) -> None:
        """Send the list of models or the metrics."""
        if self._reject_key():
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
        """Send a completion."""
        fake = self.server_state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._reject_key():
            return
        if self.path not in fake.routes:
            self._send(404, {"error": {"message": "Not Found"}})
            return
        fake.requests.append(body)
        if not fake.begin_request():
            self._send(429, {"error": {"message": "Too many requests in flight"}})
            return
        try:
            self._complete(body)
        finally:
            fake.end_request()

    def _complete(self, body: Mapping[str, Any]) -> None:
        """Answer a completion request, or inject its fault."""
        fake = self.server_state
        fault = fake.faults.popleft() if fake.faults else None
        if fault is None and fake.fault_for is not None:
            fault = fake.fault_for(body)
        if fault is not None:
            time.sleep(fake.delay_s)
            self._fail(fault)
            return
        if body.get("model") not in (fake.model, *fake.adapters):
            message = f"The model `{body.get('model')}` does not exist."
            self._send(404, {"error": {"message": message}})
            return
        if fake.cache is not None:
            fake.cache.look_up(str(body.get("prompt", "")))
        samples = truncate_samples(body, list(fake.answer(body)))
        fake.wait(samples)
        if fake.stop.is_set():
            self.close_connection = True
            return
        self._send(200, response_body(self.path, body, samples, fake.logprob))

    def _reject_key(self) -> bool:
        """Send status 401 if the API key is wrong; whether it was sent."""
        key = self.server_state.key
        if key is None or self.headers.get("Authorization") == f"Bearer {key}":
            return False
        self._send(401, {"error": {"message": "Incorrect API key provided"}})
        return True

    def _fail(self, fault: Fault) -> None:
        """Inject a fault."""
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
            self._send(fault, {"error": {"message": f"injected fault {fault}"}})

    def _send(self, status: int, body: object) -> None:
        """Send a response."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
