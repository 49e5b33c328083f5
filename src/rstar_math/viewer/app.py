"""The viewer's web application.

The access middleware rejects foreign host names (DNS rebinding) and foreign origins. Requests that
other sites embed or fetch are rejected too, and response headers forbid cross-origin use. The
viewer is read-only: no request starts a search or changes a run.
"""

import asyncio
import signal
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import uvicorn
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, Router

from rstar_math.errors import InputError, RstarError
from rstar_math.viewer.export import document, policy
from rstar_math.viewer.pages import ViewerPages
from rstar_math.viewer.sources import Source, open_source, run_files
from rstar_math.web.access import (
    AccessMiddleware,
    AccessPolicy,
    ApiError,
    App,
    Receive,
    Scope,
    Send,
)
from rstar_math.web.server import Metrics, bind, server_config, url_of

T = TypeVar("T")
_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


def viewer_app(paths: Sequence[Path]) -> App:
    """The viewer as an ASGI app. Runs may be written by other processes at the same time.

    Raises `RstarError` if a run cannot be read.
    """
    return AccessMiddleware(_Viewer(paths), AccessPolicy(), Metrics())


async def serve_viewer(paths: Sequence[Path], port: int, on_ready: Callable[[str], None]) -> None:
    """Serve the viewer on 127.0.0.1 until Ctrl-C or SIGTERM.

    Calls `on_ready` with the URL. Raises `RstarError` if the server cannot start.
    """
    app = viewer_app(paths)
    with bind("127.0.0.1", port) as listener:
        server = uvicorn.Server(server_config(app))
        loop = asyncio.get_running_loop()
        loop.call_later(0.1, on_ready, page_url(listener))
        previous = signal.signal(signal.SIGTERM, lambda number, frame: None)
        try:
            await server.serve(sockets=[listener])
            await asyncio.sleep(0)  # Ctrl-C is delivered here.
        finally:
            signal.signal(signal.SIGTERM, previous)


def page_url(listener: socket.socket) -> str:
    """The URL of the page."""
    return url_of(listener).removesuffix("v1")


class _Viewer:
    """The routes. One thread reads all runs: their SQLite connections belong to it."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="rstar-view")
        self._viewer_pages = self._reader.submit(_open_pages, paths).result()
        self._router = Router(
            [
                Route("/", self._page, methods=["GET"]),
                Route("/index", self._index, methods=["GET"]),
                Route("/fragment/{name:path}", self._fragment, methods=["GET"]),
            ],
            redirect_slashes=False,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route an ASGI request. Raises `ApiError`."""
        scope["app"] = self
        try:
            _check_site(Request(scope))
            await self._router(scope, receive, send)
        except HTTPException as error:
            message = "Unknown route; the page is at /."
            raise ApiError(message, error.status_code, code="unknown_route") from None
        except InputError as error:
            raise ApiError(str(error), 404, code="unknown_fragment") from None

    async def _page(self, request: Request) -> Response:
        text = document(await self._read(lambda: self._viewer_pages.title), live=True)
        headers = {**_HEADERS, "Content-Security-Policy": f"{policy(live=True)}; {_FRAME_POLICY}"}
        return HTMLResponse(text, headers=headers)

    async def _index(self, request: Request) -> Response:
        text = request.query_params.get("since", "0")
        since = int(text) if text.isdecimal() and len(text) < 16 else 0
        return JSONResponse(
            await self._read(lambda: self._viewer_pages.index(since)), headers=_HEADERS
        )

    async def _fragment(self, request: Request) -> Response:
        name = request.path_params["name"]
        text = await self._read(lambda: self._viewer_pages.fragment(name))
        return PlainTextResponse(text, headers=_HEADERS)

    async def _read(self, work: Callable[[], T]) -> T:
        """The result of `work` in the reader's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, work)


_FRAME_POLICY = "frame-ancestors 'none'"


class _NewRuns:
    """Finds the runs of paths that were not opened before."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._opened: set[Path] = set()

    def open(self, *, skip_errors: bool) -> list[Source]:
        """The new runs. Raises `RstarError` if one cannot be read, unless `skip_errors` is set:
        then the run is tried again in the next call."""
        sources: list[Source] = []
        for path in run_files(self._paths):
            if path in self._opened:
                continue
            try:
                sources.append(open_source(path))
            except RstarError:
                if not skip_errors:
                    raise
            else:
                self._opened.add(path)
        return sources


def _open_pages(paths: Sequence[Path]) -> ViewerPages:
    """The pages of the runs. Folders are checked for new runs later. Call it in the thread that
    reads the runs."""
    runs = _NewRuns(paths)
    sources = runs.open(skip_errors=False)
    if not any(path.is_dir() for path in paths):
        return ViewerPages(sources, int(time.time()))
    return ViewerPages(sources, int(time.time()), partial(runs.open, skip_errors=True))


def _check_site(request: Request) -> None:
    """Reject requests that pages of other sites fetch or embed. Raises `ApiError` (403).

    Following a link is allowed. Browsers report the source in headers that pages cannot change.
    """
    site = request.headers.get("sec-fetch-site", "none")
    is_link = request.headers.get("sec-fetch-mode") == "navigate"
    is_top_level = request.headers.get("sec-fetch-dest", "document") == "document"
    if site not in ("none", "same-origin") and not (is_link and is_top_level):
        raise ApiError("Requests from other sites are not allowed.", 403, code="foreign_site")
