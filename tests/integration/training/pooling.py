"""An imitation of vLLM's pooling server on a tiny model: the routes and fields of vLLM 0.32."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Pooling:
    """What the server does; `obeys` is whether it heeds `use_activation`."""

    def __init__(self, checkpoint: Path) -> None:
        import torch

        from rstar_math.models.loading import load_value_model

        self._torch = torch
        self._model, self._tokenizer = load_value_model(str(checkpoint))
        self._model.eval()
        self.obeys = True
        self.routes = {"/tokenize", "/v1/embeddings", "/classify"}

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to a request; None for a route that is not there."""
        if path not in self.routes:
            return None
        if path == "/tokenize":
            tokens = self._tokenizer(body["prompt"]).input_ids
            return {"count": len(tokens), "max_model_len": 512, "tokens": tokens}
        active = body.get("use_activation") is not False or not self.obeys
        rows = []
        for index, given in enumerate(body["input"]):
            tokens = self._tokenizer(given).input_ids if isinstance(given, str) else given
            ids = self._torch.tensor([tokens])
            with self._torch.inference_mode():
                state = self._model.model(input_ids=ids).last_hidden_state[0, -1]
                raw = self._model.score(state)
            if path == "/classify":
                probs = (self._torch.sigmoid(raw) if active else raw).tolist()
                rows.append({"index": index, "label": "LABEL_0", "probs": probs, "num_classes": 1})
            else:
                state = state / state.norm() if active else state
                rows.append({"index": index, "object": "embedding", "embedding": state.tolist()})
        used = sum(map(len, body["input"]))
        return {"data": rows[::-1], "usage": {"prompt_tokens": used, "total_tokens": used}}


@contextmanager
def pooling(checkpoint: Path) -> Iterator[tuple[str, Pooling]]:
    """The address of a running server, and what it does."""
    model = Pooling(checkpoint)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            entry = {"id": "ppm", "owned_by": "vllm", "max_model_len": 512}
            self._say(200, {"data": [entry]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            found = model.answer(self.path, body)
            self._say(*((404, {"detail": "Not Found"}) if found is None else (200, found)))

        def _say(self, status: int, answer: dict[str, Any]) -> None:
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", model
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
