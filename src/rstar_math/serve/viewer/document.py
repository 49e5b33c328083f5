"""The page around the pieces: its parts, style and script, and the policy that lets no other script
run and nothing be loaded."""

from base64 import b64encode
from functools import cache
from hashlib import sha256
from html import escape
from importlib.resources import files

from rstar_math.serve.picture import STYLE
from rstar_math.serve.viewer.steps import code_styles

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
    return (files("rstar_math.serve.viewer") / name).read_text(encoding="utf-8")
