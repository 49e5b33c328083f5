"""The page of the viewer, and its export to one file. Needs no web server."""

import json
import zlib
from base64 import b64encode
from collections.abc import Iterator, Sequence
from functools import cache
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from rstar_math.errors import InputError
from rstar_math.files import write_text
from rstar_math.runs.store import RunStore
from rstar_math.search.tree_svg import MAX_NODES, STYLE, tree_svg
from rstar_math.viewer.pages import ViewerPages
from rstar_math.viewer.sources import Source
from rstar_math.viewer.steps import code_styles

_SCRIPTS = ("source.js", "list.js", "tree.js", "panes.js", "viewer.js")
_KEYS = (
    ("/", "search the problems"),
    ("l", "go to the list; arrow keys move, Enter opens"),
    ("j k", "next and previous problem"),
    ("o", "overview"),
    ("t", "go to the tree; arrow keys move, expand and collapse, Enter shows the whole step"),
    ("a x c", "in the tree: next answer, next failed path, chosen path"),
    ("*", "in the tree: expand all siblings"),
)


@cache
def style() -> str:
    """The CSS of the page."""
    return _text("viewer.css") + STYLE + code_styles()


@cache
def script() -> str:
    """The JavaScript of the page, wrapped in a function so that it defines no globals."""
    return f'"use strict";(() => {{\n{"".join(map(_text, _SCRIPTS))}}})();\n'


def policy(*, live: bool) -> str:
    """The content security policy. It allows the page's own style and script, by hash.

    A live page may also send requests to its own server.
    """
    connect = "connect-src 'self'; " if live else ""
    return (
        f"default-src 'none'; script-src {_hash(script())}; style-src {_hash(style())}; {connect}"
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def document(title: str, *, live: bool, data: str = "") -> str:
    """The HTML page. `data` holds the script elements with the data of an exported page; browsers
    do not run them."""
    heading = escape(title)
    keys = "".join(f"<dt><kbd>{k}</kbd></dt><dd>{escape(action)}</dd>" for k, action in _KEYS)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy(live=live)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{heading} · rstar</title><style>{style()}</style></head>"
        f'<body data-live="{int(live)}" data-view="list" data-writing="0">'
        f'<header><h1>{heading}</h1><p id="state" role="status"></p>'
        '<button type="button" id="home">Overview</button>'
        f'<details class="keys"><summary>Keys</summary><dl>{keys}</dl></details></header>'
        '<nav id="side" aria-label="Problems">'
        '<input type="search" id="find" aria-label="Search ids and questions" '
        'placeholder="Search ids and questions" autocomplete="off" spellcheck="false">'
        '<div id="filters" role="group" aria-label="Filters"></div>'
        '<div class="sorting"><span id="count" role="status"></span>'
        '<label>Order <select id="order"></select></label></div>'
        '<div id="list" role="listbox" aria-label="Problems" tabindex="0">'
        '<div id="rows" role="presentation"></div></div></nav>'
        '<main><button type="button" id="back">← Problems</button>'
        '<p id="notice" role="alert" hidden></p><div id="content"></div></main>'
        "<noscript>This page needs JavaScript; its own script is the only one and loads nothing."
        f"</noscript>{data}<script>{script()}</script></body></html>\n"
    )


def _hash(text: str) -> str:
    """A hash source of a content security policy."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _text(name: str) -> str:
    """The text of a file in this package."""
    return (files("rstar_math.viewer") / name).read_text(encoding="utf-8")


_PACK_CHARS = 2**17
"""Characters of fragments that are compressed together. Small trees share a pack, large trees use
several."""
_COMPRESSION_LEVEL = 6


def write_page(sources: Sequence[Source], target: Path) -> int:
    """Write a self-contained page of runs and return the number of its trees.

    The output is deterministic, and the file is replaced atomically.
    """
    pages = ViewerPages(sources)
    write_text(target, _page(pages))
    return pages.trees


def _page(pages: ViewerPages) -> Iterator[str]:
    """Yields the page in parts; only one pack is in memory at a time."""
    index = pages.index() | {"edition": 0, "writing": False}
    start, end = document(pages.title, live=False, data="\0").split("\0")
    yield start
    yield _data("index", index)
    directory: dict[str, int] = {}
    for number, pack in enumerate(_packs(pages)):
        directory |= dict.fromkeys(pack, number)
        packed = b64encode(zlib.compress(json.dumps(pack).encode(), _COMPRESSION_LEVEL)).decode()
        yield f'<script type="text/plain" id="pack{number}">{packed}</script>'
    yield _data("directory", directory)
    yield end


def _packs(pages: ViewerPages) -> Iterator[dict[str, str]]:
    """Yields all fragments by name, in packs."""
    pack: dict[str, str] = {}
    size = 0
    for name in pages.names():
        pack[name] = pages.fragment(name)
        size += len(pack[name])
        if size >= _PACK_CHARS:
            yield pack
            pack, size = {}, 0
    if pack:
        yield pack


def _data(name: str, value: Any) -> str:
    """JSON in a script element of data. `<`, `>` and `&` are escaped, so it cannot end the
    element."""
    text = json.dumps(value, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{name}">{text}</script>'


def write_picture(store: RunStore, problem: str, target: Path) -> None:
    """Write the tree of a problem as an SVG file, from the first strategy with a result.

    Raises `InputError` if there is no result or the tree is too large.
    """
    for strategy in store.strategies():
        for result in store.results(strategy):
            if result.problem == problem:
                tree = store.tree(problem, strategy)
                if len(tree) > MAX_NODES:
                    raise InputError(
                        f"The tree of {problem!r} has {len(tree) - 1} steps; a picture has at most "
                        f"{MAX_NODES - 1}. Open the tree with: rstar view {store.path}"
                    )
                write_text(target, [tree_svg(tree, result.choice, result.verdict, standalone=True)])
                return
    raise InputError(
        f"{store.path} has no result for the problem {problem!r}; list its problems with: "
        f"rstar view {store.path}"
    )
