"""The routes of the OpenAI-compatible server. Every answer is found by a search.

requests    parses and validates what clients send
jobs        the searches: queue, progress, limits
responses   replies in the formats of the API; the cache of recent trees
openapi     the API's description
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
    chat_order,
    model_names,
    model_options,
    read,
    text_order,
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
    SlowClient,
    api_error_of,
    too_large,
)
from rstar_math.web.server import CONTENT_TYPE, Metrics

PRIME_S = 0.2
"""How long a stream waits before it begins: what fails by then is an error with a status."""
PULSE_S = 0.5
"""Time between two looks at what is new, for a stream's lines of progress."""
REMIND_S = 10.0
"""Time after which a line is sent though nothing is new, so that the connection is kept."""


class SearchResponse:
    """An ASGI response that runs a job. A client that leaves ends the search; one that reads slowly
    holds up neither the search nor others."""

    def __init__(self, job: Job, frame: ReplyContext, cache: TreeCache, metrics: Metrics) -> None:
        self._job = job
        self._frame = frame
        self._cache = cache
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI. Raises what ended the search, if that was before the answer began."""
        work = asyncio.create_task(self._work())
        gone = asyncio.create_task(_left(receive))
        visit: RequestLog = scope["visit"]
        answer = self._stream if self._frame.order.stream else self._whole
        found: Sequence[SearchResult] = ()
        try:
            visit.gone = not await answer(work, gone, send)
        finally:
            work.cancel()
            gone.cancel()
            await asyncio.wait({work, gone})
            self._job.give_up()
            if not work.cancelled() and work.exception() is None:
                found = work.result()
            self._count(visit, found, left=visit.gone or work.cancelled())

    async def _work(self) -> list[SearchResult]:
        """Search, and keep the trees."""
        found = await self._job.run()
        if self._frame.order.keep:
            for one in found:
                await self._cache.put(one, self._frame.order.strategy.name)
        return found

    async def _whole(
        self, work: "asyncio.Task[list[SearchResult]]", gone: "asyncio.Task[None]", send: Send
    ) -> bool:
        """One answer in one piece; False where the client did not wait for it."""
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            return False
        response = JSONResponse(reply(self._frame, work.result()), headers=self._headers())
        await send({"type": "http.response.start", "status": 200, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": bytes(response.body)})
        return True

    async def _stream(
        self, work: "asyncio.Task[list[SearchResult]]", gone: "asyncio.Task[None]", send: Send
    ) -> bool:
        """Progress while there is any, then the answer; False where the client left."""
        both = {work, gone}
        await asyncio.wait(both, timeout=PRIME_S, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
        headers = {"Content-Type": "text/event-stream; charset=utf-8", **self._headers()}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        stream = _Stream(send)
        try:
            await self._think_aloud(work, gone, stream)
            if not work.done():
                return False
            for piece in answer_chunks(self._frame, work.result()):
                await stream.event(piece)
        except SlowClient:
            return False
        except Exception as error:
            await stream.event(api_error_of(error).body)
            await stream.end()
            raise
        await stream.text("data: [DONE]\n\n")
        await stream.end()
        return True

    async def _think_aloud(
        self,
        work: "asyncio.Task[list[SearchResult]]",
        gone: "asyncio.Task[None]",
        stream: "_Stream",
    ) -> None:
        """Say how far each search is until they are done or the client has left."""
        searches = range(len(self._job.trees))
        if self._frame.chat:
            for index in searches:
                begin = {"role": "assistant", "content": ""}
                await stream.event(chunk(self._frame, index, begin))
        told = [("", 0.0)] * len(searches)
        while not gone.done():
            done = work.done()
            for index in searches:
                far = self._job.progress(index, work.result()[index] if done else None)
                before, when = told[index]
                news = far.news or far.line
                if news == before and monotonic() - when < REMIND_S:
                    continue
                told[index] = (news, monotonic())
                if self._frame.chat:
                    thought = {"reasoning_content": far.line}
                    await stream.event(chunk(self._frame, index, thought, rstar=far.facts))
                else:
                    await stream.text(f": {far.line}\n")
            if done:
                return
            await asyncio.wait({work, gone}, timeout=PULSE_S, return_when=asyncio.FIRST_COMPLETED)

    def _headers(self) -> dict[str, str]:
        """Where the trees of the answers are."""
        if not self._frame.order.keep:
            return {}
        return {"X-Rstar-Tree": ", ".join(tree_path(name) for name in self._job.names)}

    def _count(self, visit: RequestLog, found: Sequence[SearchResult], *, left: bool) -> None:
        """Write down what was done."""
        order, metrics = self._frame.order, self._metrics
        sampled = 0
        for tree in self._job.trees:
            metrics.tokens.labels("prompt").inc(tree.cost.prompt_tokens)
            metrics.tokens.labels("sampled").inc(tree.cost.sampled_tokens)
            metrics.tokens.labels("scorer").inc(tree.cost.scorer_tokens)
            sampled += tree.cost.sampled_tokens
        for one in found:
            metrics.searches.labels(one.ended).inc()
            metrics.answers.inc(one.choice.answer is not None)
        if not found:
            ended = "client left" if left else "failed"
            metrics.searches.labels(ended).inc(len(self._job.trees))
        metrics.answer_seconds.observe(self._job.seconds)
        visit.facts |= {"model": order.model, "strategy": order.strategy.name, "tokens": sampled}
        if found:
            visit.facts["ended"] = found[0].ended


class _Stream:
    """Server-sent events."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def event(self, value: dict[str, Any]) -> None:
        """Send a JSON object."""
        await self.text(f"data: {json.dumps(value, ensure_ascii=False)}\n\n")

    async def text(self, text: str) -> None:
        """Send text as it is."""
        await self._send({"type": "http.response.body", "body": text.encode(), "more_body": True})

    async def end(self) -> None:
        """Send the end."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    """Wait until the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass


BODY_S = 30.0
"""Longest time that a body may take to arrive."""
_PAGE_POLICY = "sandbox allow-scripts; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""Besides the policy that the page itself has: it is of no origin, so that nothing on it could ask
this server."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much the server takes on."""

    concurrency: int = 8
    """Requests that are searched for at once."""
    queue: int = 256
    """Requests that wait; more are told to come back later (429)."""
    trees: int = 128
    """Trees of last answers that are kept."""


def build(
    solver: Solver,
    *,
    terms: ServerLimits | None = None,
    limits: Limits | None = None,
    rules: AccessPolicy | None = None,
    ending: Callable[[], bool] = lambda: False,
) -> App:
    """The server as an ASGI app around an open Solver, which all requests share.

    Once `ending` is true, searches under way are ended and answered with the best so far.
    """
    rules = rules or AccessPolicy()
    metrics = Metrics()
    terms = terms or ServerLimits(solver.config.search)
    api = _Api(solver, terms, limits or Limits(), rules, metrics=metrics, ending=ending)
    return AccessMiddleware(api, rules, metrics)


class _Api:
    """The routes and what they share."""

    def __init__(
        self,
        solver: Solver,
        terms: ServerLimits,
        limits: Limits,
        rules: AccessPolicy,
        *,
        metrics: Metrics,
        ending: Callable[[], bool],
    ) -> None:
        self._solver = solver
        self._terms = terms
        self._rules = rules
        self._metrics = metrics
        self._ending = ending
        self._queue = SearchQueue(limits.concurrency, limits.queue)
        self._cache = TreeCache(limits.trees)
        self._pages = asyncio.Semaphore(1)  # pages are written one at a time, whoever asks
        self._started = int(time.time())
        self._fingerprint = _fingerprint(solver)
        self._router = Router(
            [
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/completions", self._text, methods=["POST"]),
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/v1/models/{name:path}", self._model, methods=["GET"]),
                Route("/health", self._health, methods=["GET"]),
                Route("/metrics", self._scrape, methods=["GET"]),
                Route("/openapi.json", self._described, methods=["GET"]),
                Route("/trees/{name}", self._tree, methods=["GET"]),
            ],
            redirect_slashes=False,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI. Raises `ApiError`."""
        scope["app"] = self
        try:
            await self._router(scope, receive, send)
        except HTTPException as error:
            what = f"{scope['method']} {scope['path'][:80]}"
            said = f"There is no {what} here; /openapi.json lists what there is."
            raise ApiError(
                said, error.status_code, code="unknown_route", headers=error.headers
            ) from None

    async def _chat(self, request: Request) -> SearchResponse:
        body = await self._body(request)
        return self._answering(chat_order(read(ChatRequest, body), self._terms), chat=True)

    async def _text(self, request: Request) -> SearchResponse:
        body = await self._body(request)
        return self._answering(text_order(read(TextRequest, body), self._terms), chat=False)

    def _answering(self, order: SearchRequest, *, chat: bool) -> SearchResponse:
        """The answer to an order, or `ApiError` (429) where there is no room."""
        name = f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}"
        frame = ReplyContext(name, int(time.time()), order, chat, self._fingerprint)
        job = Job(order, self._solver, self._queue.enqueue(), self._ending)
        return SearchResponse(job, frame, self._cache, self._metrics)

    async def _models(self, request: Request) -> Response:
        return JSONResponse(
            {"object": "list", "data": [self._entry(name) for name in model_names()]}
        )

    async def _model(self, request: Request) -> Response:
        model_options(request.path_params["name"])
        return JSONResponse(self._entry(request.path_params["name"]))

    def _entry(self, name: str) -> dict[str, object]:
        """A model as it is listed."""
        found = {"id": name, "object": "model", "created": self._started, "owned_by": "rstar-math"}
        options = {"strategy": self._terms.search.strategy, **model_options(name)}
        return {**found, "rstar": {"model": self._solver.model_name, **options}}

    async def _health(self, request: Request) -> Response:
        if self._ending():
            return JSONResponse({"status": "ending"}, 503)
        state = {"searching": self._queue.taken, "waiting": len(self._queue.waiting)}
        return JSONResponse({"status": "ok", "version": __version__, **state})

    async def _scrape(self, request: Request) -> Response:
        text = self._metrics.text(
            searching=self._queue.taken,
            waiting=len(self._queue.waiting),
            trees_kept=len(self._cache),
            tasks=len(asyncio.all_tasks()),
        )
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    async def _described(self, request: Request) -> Response:
        return JSONResponse(description())

    async def _tree(self, request: Request) -> Response:
        name = request.path_params["name"]
        async with self._pages:
            page = await asyncio.to_thread(self._cache.page, name) if name in self._cache else None
        if page is None:
            raise ApiError("This tree is not, or no longer, kept.", 404, code="tree_not_found")
        headers = {"Content-Security-Policy": _PAGE_POLICY, "Referrer-Policy": "no-referrer"}
        return Response(page, media_type="text/html", headers=headers)

    async def _body(self, request: Request) -> bytes:
        """A JSON body of at most the size that is allowed."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(
                "The body must be JSON; send it with Content-Type: application/json.",
                415,
                code="unsupported_media_type",
            )
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_S):
                async for part in request.stream():
                    body += part
                    if len(body) > self._rules.body_bytes:
                        raise too_large(self._rules.body_bytes)
        except TimeoutError:
            raise ApiError(f"The body took more than {BODY_S:.0f} s; send it again.", 408) from None
        except ClientDisconnect:
            raise ApiError("The client left before its body was whole; send it again.") from None
        return bytes(body)


def _fingerprint(solver: Solver) -> str:
    """A hash of what answers depend on besides the request."""
    text = f"{__version__} {solver.model_name} {solver.config.model_dump_json()}"
    return f"rstar_{blake2b(text.encode(), digest_size=6).hexdigest()}"
