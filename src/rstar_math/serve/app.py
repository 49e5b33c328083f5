"""The routes of the OpenAI-compatible server. Every answer is found by a search.

requests    parses and validates requests
jobs        the searches: queue, progress, limits
responses   replies in the formats of the API; the cache of recent trees
openapi     the OpenAPI description
server      address, signals, shutdown
"""

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from time import monotonic
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from rstar_math import __version__
from rstar_math.serve.jobs import Job, SearchQueue, SearchResult
from rstar_math.serve.openapi import description
from rstar_math.serve.requests import (
    ChatRequest,
    SearchRequest,
    ServerLimits,
    TextRequest,
    chat_search,
    model_names,
    model_options,
    parse_body,
    text_search,
)
from rstar_math.serve.responses import (
    ReplyContext,
    TreeCache,
    answer_chunks,
    chunk,
    reply,
    tree_path,
)
from rstar_math.solver.solver import Solver
from rstar_math.web.access import (
    AccessMiddleware,
    AccessPolicy,
    ApiError,
    App,
    Receive,
    RequestLog,
    Scope,
    Send,
    SlowClientError,
    api_error_of,
    body_too_large,
)
from rstar_math.web.server import CONTENT_TYPE, Metrics

STREAM_DELAY_S = 0.2
"""Delay before a stream starts. An error within this time is returned with an error status."""
PROGRESS_INTERVAL_S = 0.5
"""Minimum time between two progress lines of a stream."""
KEEP_ALIVE_S = 10.0
"""Time after which a progress line is repeated unchanged, to keep the connection open."""


class SearchResponse:
    """An ASGI response that runs a job.

    If the client disconnects, the search ends. A slow client delays neither the search nor other
    clients.
    """

    def __init__(self, job: Job, context: ReplyContext, cache: TreeCache, metrics: Metrics) -> None:
        self._job = job
        self._context = context
        self._cache = cache
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Search and send the response. Raises the search's error if it occurs before the response
        starts."""
        search = asyncio.create_task(self._search())
        disconnect = asyncio.create_task(_wait_for_disconnect(receive))
        log: RequestLog = scope["request_log"]
        respond = self._send_stream if self._context.request.stream else self._send_json
        results: Sequence[SearchResult] = ()
        try:
            log.disconnected = not await respond(search, disconnect, send)
        finally:
            search.cancel()
            disconnect.cancel()
            await asyncio.wait({search, disconnect})
            self._job.close()
            if not search.cancelled() and search.exception() is None:
                results = search.result()
            self._record(log, results, disconnected=log.disconnected or search.cancelled())

    async def _search(self) -> list[SearchResult]:
        """Run the searches and cache their trees."""
        results = await self._job.run()
        if self._context.request.keep_trees:
            for result in results:
                await self._cache.put(result, self._context.request.strategy.name)
        return results

    async def _send_json(
        self,
        search: "asyncio.Task[list[SearchResult]]",
        disconnect: "asyncio.Task[None]",
        send: Send,
    ) -> bool:
        """Send the reply as one JSON object. Returns False if the client disconnected before it."""
        await asyncio.wait({search, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if not search.done():
            return False
        body = reply(self._context, search.result())
        response = JSONResponse(body, headers=self._headers())
        await send({"type": "http.response.start", "status": 200, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": bytes(response.body)})
        return True

    async def _send_stream(
        self,
        search: "asyncio.Task[list[SearchResult]]",
        disconnect: "asyncio.Task[None]",
        send: Send,
    ) -> bool:
        """Stream progress and then the answers. Returns False if the client disconnected."""
        tasks = {search, disconnect}
        await asyncio.wait(tasks, timeout=STREAM_DELAY_S, return_when=asyncio.FIRST_COMPLETED)
        if search.done():
            search.result()
        headers = {"Content-Type": "text/event-stream; charset=utf-8", **self._headers()}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        stream = _EventStream(send)
        try:
            await self._stream_progress(search, disconnect, stream)
            if not search.done():
                return False
            for event in answer_chunks(self._context, search.result()):
                await stream.event(event)
        except SlowClientError:
            return False
        except Exception as error:
            await stream.event(api_error_of(error).body)
            await stream.end()
            raise
        await stream.text("data: [DONE]\n\n")
        await stream.end()
        return True

    async def _stream_progress(
        self,
        search: "asyncio.Task[list[SearchResult]]",
        disconnect: "asyncio.Task[None]",
        stream: "_EventStream",
    ) -> None:
        """Stream the progress of each search until all have ended or the client disconnects."""
        indices = range(len(self._job.trees))
        if self._context.chat:
            for index in indices:
                start = {"role": "assistant", "content": ""}
                await stream.event(chunk(self._context, index, start))
        last_sent = [("", 0.0)] * len(indices)
        while not disconnect.done():
            done = search.done()
            for index in indices:
                progress = self._job.progress(index, search.result()[index] if done else None)
                last_state, sent_at = last_sent[index]
                state = progress.state or progress.line
                if state == last_state and monotonic() - sent_at < KEEP_ALIVE_S:
                    continue
                last_sent[index] = (state, monotonic())
                if self._context.chat:
                    delta = {"reasoning_content": progress.line}
                    await stream.event(chunk(self._context, index, delta, rstar=progress.fields))
                else:
                    await stream.text(f": {progress.line}\n")
            if done:
                return
            await asyncio.wait(
                {search, disconnect},
                timeout=PROGRESS_INTERVAL_S,
                return_when=asyncio.FIRST_COMPLETED,
            )

    def _headers(self) -> dict[str, str]:
        """The header with the URL paths of the trees."""
        if not self._context.request.keep_trees:
            return {}
        return {"X-Rstar-Tree": ", ".join(tree_path(name) for name in self._job.names)}

    def _record(
        self, log: RequestLog, results: Sequence[SearchResult], *, disconnected: bool
    ) -> None:
        """Update the metrics and the request's log line."""
        request, metrics = self._context.request, self._metrics
        sampled = 0
        for tree in self._job.trees:
            metrics.tokens.labels("prompt").inc(tree.cost.prompt_tokens)
            metrics.tokens.labels("sampled").inc(tree.cost.sampled_tokens)
            metrics.tokens.labels("scorer").inc(tree.cost.scorer_tokens)
            sampled += tree.cost.sampled_tokens
        for result in results:
            metrics.searches.labels(result.end_reason).inc()
            metrics.answers.inc(result.choice.answer is not None)
        if not results:
            ended = "client left" if disconnected else "failed"
            metrics.searches.labels(ended).inc(len(self._job.trees))
        metrics.answer_seconds.observe(self._job.seconds)
        log.fields |= {
            "model": request.model,
            "strategy": request.strategy.name,
            "tokens": sampled,
        }
        if results:
            log.fields["ended"] = results[0].end_reason


class _EventStream:
    """Sends server-sent events."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def event(self, value: dict[str, Any]) -> None:
        """Send a JSON object as an event."""
        await self.text(f"data: {json.dumps(value, ensure_ascii=False)}\n\n")

    async def text(self, text: str) -> None:
        """Send text unchanged."""
        await self._send({"type": "http.response.body", "body": text.encode(), "more_body": True})

    async def end(self) -> None:
        """End the response."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def _wait_for_disconnect(receive: Receive) -> None:
    """Wait until the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass


BODY_TIMEOUT_S = 30.0
"""Maximum time for a request body to arrive."""
_PAGE_POLICY = "sandbox allow-scripts; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""Sent with a tree's page, in addition to the page's own policy. It removes the page's origin, so
that scripts on it cannot send requests to this server."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many requests and trees the server holds at once."""

    concurrency: int = 8
    """Maximum number of requests that run at once."""
    queue: int = 256
    """Maximum number of requests that wait. Further requests get status 429."""
    trees: int = 128
    """Maximum number of recent trees in the cache."""


def build(
    solver: Solver,
    *,
    limits: ServerLimits | None = None,
    capacity: Capacity | None = None,
    access: AccessPolicy | None = None,
    is_shutting_down: Callable[[], bool] = lambda: False,
) -> App:
    """The server as an ASGI app. All requests share the open Solver.

    Once `is_shutting_down` returns True, active searches end and their requests get the best
    answer so far.
    """
    access = access or AccessPolicy()
    metrics = Metrics()
    api = _Api(
        solver,
        limits or ServerLimits(solver.config.search),
        capacity or Capacity(),
        max_body_bytes=access.body_bytes,
        metrics=metrics,
        is_shutting_down=is_shutting_down,
    )
    return AccessMiddleware(api, access, metrics)


class _Api:
    """The routes and their shared state."""

    def __init__(
        self,
        solver: Solver,
        limits: ServerLimits,
        capacity: Capacity,
        *,
        max_body_bytes: int,
        metrics: Metrics,
        is_shutting_down: Callable[[], bool],
    ) -> None:
        self._solver = solver
        self._limits = limits
        self._max_body_bytes = max_body_bytes
        self._metrics = metrics
        self._is_shutting_down = is_shutting_down
        self._queue = SearchQueue(capacity.concurrency, capacity.queue)
        self._cache = TreeCache(capacity.trees)
        self._page_lock = asyncio.Lock()  # one page is rendered at a time
        self._started = int(time.time())
        self._fingerprint = _fingerprint(solver)
        self._router = Router(
            [
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/completions", self._text, methods=["POST"]),
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/v1/models/{name:path}", self._model, methods=["GET"]),
                Route("/health", self._health, methods=["GET"]),
                Route("/metrics", self._metrics_text, methods=["GET"]),
                Route("/openapi.json", self._openapi, methods=["GET"]),
                Route("/trees/{name}", self._tree, methods=["GET"]),
            ],
            redirect_slashes=False,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route an ASGI request. Raises `ApiError`."""
        scope["app"] = self
        try:
            await self._router(scope, receive, send)
        except HTTPException as error:
            raise ApiError(
                f"There is no route {scope['method']} {scope['path'][:80]}; see /openapi.json for "
                "the routes.",
                error.status_code,
                code="unknown_route",
                headers=error.headers,
            ) from None

    async def _chat(self, request: Request) -> SearchResponse:
        parsed = parse_body(ChatRequest, await self._body(request))
        return self._search_response(chat_search(parsed, self._limits), chat=True)

    async def _text(self, request: Request) -> SearchResponse:
        parsed = parse_body(TextRequest, await self._body(request))
        return self._search_response(text_search(parsed, self._limits), chat=False)

    def _search_response(self, request: SearchRequest, *, chat: bool) -> SearchResponse:
        """The response to a request. Raises `ApiError` (429) if the queue is full."""
        name = f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}"
        context = ReplyContext(name, int(time.time()), request, chat, self._fingerprint)
        job = Job(request, self._solver, self._queue.enqueue(), self._is_shutting_down)
        return SearchResponse(job, context, self._cache, self._metrics)

    async def _models(self, request: Request) -> Response:
        models = [self._model_entry(name) for name in model_names()]
        return JSONResponse({"object": "list", "data": models})

    async def _model(self, request: Request) -> Response:
        return JSONResponse(self._model_entry(request.path_params["name"]))

    def _model_entry(self, name: str) -> dict[str, object]:
        """The JSON of one model. Raises `ApiError` (404) for an unknown name."""
        options = {"strategy": self._limits.search.strategy, **model_options(name)}
        return {
            "id": name,
            "object": "model",
            "created": self._started,
            "owned_by": "rstar-math",
            "rstar": {"model": self._solver.model_name, **options},
        }

    async def _health(self, request: Request) -> Response:
        if self._is_shutting_down():
            return JSONResponse({"status": "ending"}, 503)
        state = {"searching": self._queue.running, "waiting": len(self._queue.waiting)}
        return JSONResponse({"status": "ok", "version": __version__, **state})

    async def _metrics_text(self, request: Request) -> Response:
        text = self._metrics.text(
            searching=self._queue.running,
            waiting=len(self._queue.waiting),
            trees_kept=len(self._cache),
            tasks=len(asyncio.all_tasks()),
        )
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(description())

    async def _tree(self, request: Request) -> Response:
        name = request.path_params["name"]
        async with self._page_lock:
            page = await asyncio.to_thread(self._cache.page, name) if name in self._cache else None
        if page is None:
            raise ApiError(
                "This tree is not in the cache (anymore); only recent trees are kept.",
                404,
                code="tree_not_found",
            )
        headers = {"Content-Security-Policy": _PAGE_POLICY, "Referrer-Policy": "no-referrer"}
        return Response(page, media_type="text/html", headers=headers)

    async def _body(self, request: Request) -> bytes:
        """The request body. Raises `ApiError` if it is not JSON, too large or too slow."""
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise ApiError(
                "The body must be JSON; send it with Content-Type: application/json.",
                415,
                code="unsupported_media_type",
            )
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                async for part in request.stream():
                    body += part
                    if len(body) > self._max_body_bytes:
                        raise body_too_large(self._max_body_bytes)
        except TimeoutError:
            raise ApiError(
                f"The body did not arrive within {BODY_TIMEOUT_S:.0f} s; send it again.", 408
            ) from None
        except ClientDisconnect:
            raise ApiError("The client disconnected before the body was complete.") from None
        return bytes(body)


def _fingerprint(solver: Solver) -> str:
    """A hash of everything besides the request that answers depend on."""
    text = f"{__version__} {solver.model_name} {solver.config.model_dump_json()}"
    return f"rstar_{blake2b(text.encode(), digest_size=6).hexdigest()}"
