"""The page on a port of this machine: read-only, for this machine's own browser.

The door refuses foreign host names (DNS rebinding) and foreign origins; what other sites embed or
fetch is refused too, and an answer says that it is for nobody else. There is nothing to start here:
runs are only read.
"""

import asyncio
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import uvicorn
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, Router

from rstar_math.errors import InputError, RstarError
from rstar_math.serve.door import App, Door, Receive, Rules, Scope, Send
from rstar_math.serve.listening import bound, server_config, url_of
from rstar_math.serve.metrics import Metrics
from rstar_math.serve.refusal import Refusal
from rstar_math.serve.viewer.book import Book
from rstar_math.serve.viewer.document import document, policy
from rstar_math.serve.viewer.sources import Source, files_of, opened

T = TypeVar("T")

_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


def viewer_app(paths: Sequence[Path]) -> App:
    """The viewer of some runs as an ASGI app, which reads them while others write them.

    Raises `RstarError` where one cannot be read.
    """
    return Door(_Viewer(paths), Rules(), Metrics())


async def look(paths: Sequence[Path], port: int, on_ready: Callable[[str], None]) -> None:
    """Serve the viewer on the loopback until Ctrl-C or SIGTERM; `on_ready` is told the address.
    Raises `RstarError` where it cannot begin."""
    app = viewer_app(paths)
    with bound("127.0.0.1", port) as listener:
        server = uvicorn.Server(server_config(app))
        loop = asyncio.get_running_loop()
        loop.call_later(0.1, on_ready, address(listener))
        before = signal.signal(signal.SIGTERM, lambda number, frame: None)
        try:
            await server.serve(sockets=[listener])
            await asyncio.sleep(0)  # Ctrl-C is delivered here.
        finally:
            signal.signal(signal.SIGTERM, before)


def address(listener: socket.socket) -> str:
    """Where the page is."""
    return url_of(listener).removesuffix("v1")


class _Viewer:
    """The routes. All reading is done by one thread, to which the runs belong."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="rstar-view")
        self._book = self._reader.submit(_book, paths).result()
        self._router = Router(
            [
                Route("/", self._page, methods=["GET"]),
                Route("/index", self._index, methods=["GET"]),
                Route("/piece/{name:path}", self._piece, methods=["GET"]),
            ],
            redirect_slashes=False,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI. Raises `Refusal`."""
        scope["app"] = self
        try:
            _check_site(Request(scope))
            await self._router(scope, receive, send)
        except HTTPException as error:
            said = "There is nothing here; the page is at /."
            raise Refusal(said, error.status_code, code="unknown_route") from None
        except InputError as error:
            raise Refusal(str(error), 404, code="unknown_piece") from None

    async def _page(self, request: Request) -> Response:
        text = document(await self._read(lambda: self._book.title), live=True)
        headers = {**_HEADERS, "Content-Security-Policy": f"{policy(live=True)}; {_FRAMES}"}
        return HTMLResponse(text, headers=headers)

    async def _index(self, request: Request) -> Response:
        since = request.query_params.get("since", "0")
        number = int(since) if since.isdecimal() and len(since) < 16 else 0
        return JSONResponse(await self._read(lambda: self._book.index(number)), headers=_HEADERS)

    async def _piece(self, request: Request) -> Response:
        name = request.path_params["name"]
        text = await self._read(lambda: self._book.piece(name))
        return PlainTextResponse(text, headers=_HEADERS)

    async def _read(self, work: Callable[[], T]) -> T:
        """Something read in the reader's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, work)


_FRAMES = "frame-ancestors 'none'"


def _book(paths: Sequence[Path]) -> Book:
    """The runs, opened in the thread that will read them; of folders also those that come later."""
    known: set[Path] = set()

    def more() -> Iterator[Source]:
        for path in files_of(paths):
            if path not in known:
                try:
                    found = opened(path)
                except RstarError:
                    if not begun:
                        raise
                    continue  # it is being made, and looked at again the next time
                known.add(path)
                yield found

    begun = False
    sources = list(more())
    begun = True
    return Book(sources, int(time.time()), more if any(p.is_dir() for p in paths) else _none)


def _none() -> Sequence[Source]:
    """No more runs."""
    return ()


def _check_site(request: Request) -> None:
    """Refuse what a page of another site makes a browser fetch or embed; following a link is let
    through. Browsers say so in headers that no page can change."""
    site = request.headers.get("sec-fetch-site", "none")
    link = request.headers.get("sec-fetch-mode") == "navigate"
    top = request.headers.get("sec-fetch-dest", "document") == "document"
    if site not in ("none", "same-origin") and not (link and top):
        raise Refusal("Pages of other sites may not look at runs.", 403, code="foreign_site")
