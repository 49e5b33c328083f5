"""The server's routes: an OpenAI-compatible API whose answers are searched for.

refusal    how a client is told no
wire       what clients send
orders     from that to what is searched for
jobs       the searches, in line and under way
prose      what was found, as text
replies    the same in the shapes of the API
answering  one request, whole or as a stream
shelf      the trees of the last answers
door       who may come in
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from rstar_math import __version__
from rstar_math.serve.answering import Answering
from rstar_math.serve.door import App, Door, Receive, Rules, Scope, Send, too_large
from rstar_math.serve.jobs import Desk, Job
from rstar_math.serve.metrics import CONTENT_TYPE, Metrics
from rstar_math.serve.openapi import description
from rstar_math.serve.orders import (
    Order,
    Terms,
    chat_order,
    model_names,
    model_options,
    read,
    text_order,
)
from rstar_math.serve.refusal import Refusal
from rstar_math.serve.replies import Frame
from rstar_math.serve.shelf import Shelf
from rstar_math.serve.wire import ChatRequest, TextRequest
from rstar_math.solver import Solver

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
    terms: Terms | None = None,
    limits: Limits | None = None,
    rules: Rules | None = None,
    ending: Callable[[], bool] = lambda: False,
) -> App:
    """The server as an ASGI app around an open Solver, which all requests share.

    Once `ending` is true, searches under way are ended and answered with the best so far.
    """
    rules = rules or Rules()
    metrics = Metrics()
    terms = terms or Terms(solver.config.search)
    api = _Api(solver, terms, limits or Limits(), rules, metrics=metrics, ending=ending)
    return Door(api, rules, metrics)


class _Api:
    """The routes and what they share."""

    def __init__(
        self,
        solver: Solver,
        terms: Terms,
        limits: Limits,
        rules: Rules,
        *,
        metrics: Metrics,
        ending: Callable[[], bool],
    ) -> None:
        self._solver = solver
        self._terms = terms
        self._rules = rules
        self._metrics = metrics
        self._ending = ending
        self._desk = Desk(limits.concurrency, limits.queue)
        self._shelf = Shelf(limits.trees)
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
        """See ASGI. Raises `Refusal`."""
        scope["app"] = self
        try:
            await self._router(scope, receive, send)
        except HTTPException as error:
            what = f"{scope['method']} {scope['path'][:80]}"
            said = f"There is no {what} here; /openapi.json lists what there is."
            raise Refusal(
                said, error.status_code, code="unknown_route", headers=error.headers
            ) from None

    async def _chat(self, request: Request) -> Answering:
        body = await self._body(request)
        return self._answering(chat_order(read(ChatRequest, body), self._terms), chat=True)

    async def _text(self, request: Request) -> Answering:
        body = await self._body(request)
        return self._answering(text_order(read(TextRequest, body), self._terms), chat=False)

    def _answering(self, order: Order, *, chat: bool) -> Answering:
        """The answer to an order, or `Refusal` (429) where there is no room."""
        name = f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}"
        frame = Frame(name, int(time.time()), order, chat, self._fingerprint)
        job = Job(order, self._solver, self._desk.line_up(), self._ending)
        return Answering(job, frame, self._shelf, self._metrics)

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
        state = {"searching": self._desk.taken, "waiting": len(self._desk.waiting)}
        return JSONResponse({"status": "ok", "version": __version__, **state})

    async def _scrape(self, request: Request) -> Response:
        text = self._metrics.text(
            searching=self._desk.taken,
            waiting=len(self._desk.waiting),
            trees_kept=len(self._shelf),
            tasks=len(asyncio.all_tasks()),
        )
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    async def _described(self, request: Request) -> Response:
        return JSONResponse(description())

    async def _tree(self, request: Request) -> Response:
        name = request.path_params["name"]
        async with self._pages:
            page = await asyncio.to_thread(self._shelf.page, name) if name in self._shelf else None
        if page is None:
            raise Refusal("This tree is not, or no longer, kept.", 404, code="tree_not_found")
        headers = {"Content-Security-Policy": _PAGE_POLICY, "Referrer-Policy": "no-referrer"}
        return Response(page, media_type="text/html", headers=headers)

    async def _body(self, request: Request) -> bytes:
        """A JSON body of at most the size that is allowed."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refusal(
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
            raise Refusal(f"The body took more than {BODY_S:.0f} s; send it again.", 408) from None
        except ClientDisconnect:
            raise Refusal("The client left before its body was whole; send it again.") from None
        return bytes(body)


def _fingerprint(solver: Solver) -> str:
    """A hash of what answers depend on besides the request."""
    text = f"{__version__} {solver.model_name} {solver.config.model_dump_json()}"
    return f"rstar_{blake2b(text.encode(), digest_size=6).hexdigest()}"
