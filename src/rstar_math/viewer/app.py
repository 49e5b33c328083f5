"""The viewer's web application, and the exported page.

The door refuses foreign host names (DNS rebinding) and foreign origins; what other sites embed or
fetch is refused too, and an answer says that it is for nobody else. There is nothing to start here:
runs are only read.
"""

import asyncio
import json
import signal
import socket
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, Router

from rstar_math.errors import InputError, RstarError
from rstar_math.files import write_text
from rstar_math.viewer.pages import ViewerPages
from rstar_math.viewer.sources import Source, files_of, opened
from rstar_math.viewer.steps import code_styles
from rstar_math.viewer.tree_svg import STYLE
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

_SCRIPTS = ("source.js", "list.js", "tree.js", "panes.js", "viewer.js")
_KEYS = (
    ("/", "find a problem"),
    ("l", "to the list; arrows move in it, Enter opens"),
    ("j k", "next and previous problem"),
    ("o", "overview"),
    ("t", "to the tree; arrows move, open and close, Enter shows the whole step"),
    ("a x c", "in the tree: next answer, next dead end, the chosen path"),
    ("*", "in the tree: open all beside this one"),
)


@cache
def style() -> str:
    """The style sheet."""
    return _text("viewer.css") + STYLE + code_styles()


@cache
def script() -> str:
    """The script, as one function that leaves no names behind."""
    return f'"use strict";(() => {{\n{"".join(map(_text, _SCRIPTS))}}})();\n'


def policy(*, live: bool) -> str:
    """The content security policy: this style and this script by their hashes and nothing else; a
    live page may ask its own server."""
    asks = "connect-src 'self'; " if live else ""
    return (
        f"default-src 'none'; script-src {_hash(script())}; style-src {_hash(style())}; {asks}"
        "base-uri 'none'; form-action 'none'"
    )


def document(title: str, *, live: bool, held: str = "") -> str:
    """The page. `held` is what an exported page holds besides: script elements of data, which are
    never run."""
    name = escape(title)
    keys = "".join(f"<dt><kbd>{k}</kbd></dt><dd>{escape(w)}</dd>" for k, w in _KEYS)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy(live=live)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{name} · rstar</title><style>{style()}</style></head>"
        f'<body data-live="{int(live)}" data-view="list" data-writing="0">'
        f'<header><h1><button type="button" id="home" title="Overview">{name}</button></h1>'
        '<p id="state" role="status"></p>'
        f'<details class="keys"><summary>Keys</summary><dl>{keys}</dl></details></header>'
        '<nav id="side" aria-label="Problems">'
        '<input type="search" id="find" aria-label="Find in ids and questions" '
        'placeholder="Find in ids and questions" autocomplete="off" spellcheck="false">'
        '<div id="filters" role="group" aria-label="Filters"></div>'
        '<div class="sorting"><span id="count" role="status"></span>'
        '<label>Order <select id="order"></select></label></div>'
        '<div id="list" role="listbox" aria-label="Problems" tabindex="0">'
        '<div id="rows" role="presentation"></div></div></nav>'
        '<main><button type="button" id="back">← Problems</button>'
        '<p id="notice" role="alert" hidden></p><div id="content"></div></main>'
        "<noscript>This page needs its own script, which loads nothing; please let it run."
        f"</noscript>{held}<script>{script()}</script></body></html>\n"
    )


def _hash(text: str) -> str:
    """A source expression of the policy."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _text(name: str) -> str:
    """A file that belongs to this package."""
    return (files("rstar_math.viewer") / name).read_text(encoding="utf-8")


_PACK = 2**17
"""Characters of pieces that are packed together: small trees many in a pack, large ones in
several."""
_LEVEL = 6


def write_page(sources: Sequence[Source], target: Path) -> int:
    """Write the page of some runs; returns how many trees it shows. The same runs give the same
    bytes, and the file appears whole or not."""
    book = ViewerPages(sources)
    write_text(target, _page(book))
    return book.trees


def _page(book: ViewerPages) -> Iterator[str]:
    """The page in parts: one pack in memory at a time."""
    index = book.index() | {"edition": 0, "writing": False}
    before, after = document(book.title, live=False, held="\0").split("\0")
    yield before
    yield _data("index", index)
    directory: dict[str, int] = {}
    for number, pack in enumerate(_packs(book)):
        directory |= dict.fromkeys(pack, number)
        packed = b64encode(zlib.compress(json.dumps(pack).encode(), _LEVEL)).decode()
        yield f'<script type="text/plain" id="pack{number}">{packed}</script>'
    yield _data("directory", directory)
    yield after


def _packs(book: ViewerPages) -> Iterator[dict[str, str]]:
    """All pieces, in packs."""
    pack: dict[str, str] = {}
    size = 0
    for name in book.names():
        pack[name] = book.fragment(name)
        size += len(pack[name])
        if size >= _PACK:
            yield pack
            pack, size = {}, 0
    if pack:
        yield pack


def _data(name: str, value: Any) -> str:
    """JSON in a script element of data; no sign in it can end the element."""
    text = json.dumps(value, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f'<script type="application/json" id="{name}">{text}</script>'


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
    return AccessMiddleware(_Viewer(paths), AccessPolicy(), Metrics())


async def serve_viewer(paths: Sequence[Path], port: int, on_ready: Callable[[str], None]) -> None:
    """Serve the viewer on the loopback until Ctrl-C or SIGTERM; `on_ready` is told the address.
    Raises `RstarError` where it cannot begin."""
    app = viewer_app(paths)
    with bind("127.0.0.1", port) as listener:
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
        """See ASGI. Raises `ApiError`."""
        scope["app"] = self
        try:
            _check_site(Request(scope))
            await self._router(scope, receive, send)
        except HTTPException as error:
            said = "There is nothing here; the page is at /."
            raise ApiError(said, error.status_code, code="unknown_route") from None
        except InputError as error:
            raise ApiError(str(error), 404, code="unknown_piece") from None

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
        text = await self._read(lambda: self._book.fragment(name))
        return PlainTextResponse(text, headers=_HEADERS)

    async def _read(self, work: Callable[[], T]) -> T:
        """Something read in the reader's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, work)


_FRAMES = "frame-ancestors 'none'"


def _book(paths: Sequence[Path]) -> ViewerPages:
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
    return ViewerPages(sources, int(time.time()), more if any(p.is_dir() for p in paths) else _none)


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
        raise ApiError("Pages of other sites may not look at runs.", 403, code="foreign_site")
