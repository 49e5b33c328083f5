"""The page as one file that needs no server: its pieces are held packed, and unpacked as they are
opened."""

import json
import zlib
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rstar_math.serve.page import write_whole
from rstar_math.serve.viewer.book import Book
from rstar_math.serve.viewer.document import document
from rstar_math.serve.viewer.sources import Source

_PACK = 2**17
"""Characters of pieces that are packed together: small trees many in a pack, large ones in
several."""
_LEVEL = 6


def write_page(sources: Sequence[Source], target: Path) -> int:
    """Write the page of some runs; returns how many trees it shows. The same runs give the same
    bytes, and the file appears whole or not."""
    book = Book(sources)
    write_whole(target, _page(book))
    return book.trees


def _page(book: Book) -> Iterator[str]:
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


def _packs(book: Book) -> Iterator[dict[str, str]]:
    """All pieces, in packs."""
    pack: dict[str, str] = {}
    size = 0
    for name in book.names():
        pack[name] = book.piece(name)
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
