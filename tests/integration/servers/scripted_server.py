"""A real HTTP server on the loopback address whose answers a test writes out."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD = {
    "choices": [{"text": "4", "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1},
}


@dataclass(frozen=True)
class Answer:
    """One HTTP answer. Without `whole`, the connection is cut in the middle of the body."""

    body: object = field(default_factory=lambda: GOOD)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    whole: bool = True


@dataclass
class Script:
    """What the server was asked, and its address."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def scripted(answer: Callable[[dict[str, Any], int], Answer]) -> Iterator[Script]:
    """Run the server. `answer` gets the body of a request and its number, counted from 0."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.respond(Answer({"data": [{"id": "m"}]}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            script.requests.append(body)
            self.respond(answer(body, len(script.requests) - 1))

        def respond(self, reply: Answer) -> None:
            text = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text) + (0 if reply.whole else 10)))
            self.end_headers()
            self.wfile.write(text)
            self.close_connection = not reply.whole

        def log_message(self, format: str, *args: object) -> None:
            """Write nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    script = Script(f"http://127.0.0.1:{server.server_port}/v1")
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
