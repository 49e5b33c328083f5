"""The trees of the last answers, kept to be looked at."""

import asyncio
import json
import tempfile
import zlib
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path

from rstar_math.evolution.store import RunStore
from rstar_math.search import Choice, Tree, from_record, to_record
from rstar_math.serve.jobs import Found
from rstar_math.serve.viewer.export import write_page
from rstar_math.types import Cost, Problem

MOST_BYTES = 256 * 2**20
"""Most memory that kept trees take, packed."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A packed tree."""

    record: bytes
    choice: Choice
    cost: Cost
    strategy: str


class Shelf:
    """The last `room` trees, and fewer where they are large; what is older is thrown away."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._bytes = 0

    async def put(self, found: Found, strategy: str) -> None:
        """Keep a tree under its name; packs it in a thread."""
        record = await asyncio.to_thread(_packed, found.tree)
        self._kept[found.name] = _Kept(record, found.choice, replace(found.tree.cost), strategy)
        self._bytes += len(record)
        while len(self._kept) > self._room or self._bytes > MOST_BYTES:
            _, old = self._kept.popitem(last=False)
            self._bytes -= len(old.record)

    def page(self, name: str) -> bytes | None:
        """A tree's page, the same that `rstar view` writes for a run; None for a name that is not,
        or no longer, kept. Takes some milliseconds of a thread."""
        kept = self._kept.get(name)
        if kept is None:
            return None
        tree = from_record(json.loads(zlib.decompress(kept.record)))
        tree.cost = kept.cost
        with tempfile.TemporaryDirectory(prefix="rstar-page-") as folder:
            target = Path(folder) / "page.html"
            with RunStore.open(Path(folder) / "answer.rstar", {}) as store:
                store.add_problems([Problem(tree.question)])
                store.put(kept.strategy, tree, kept.choice)
                write_page([store], target)
            return target.read_bytes()

    def __contains__(self, name: str) -> bool:
        return name in self._kept

    def __len__(self) -> int:
        return len(self._kept)


def _packed(tree: Tree) -> bytes:
    """A tree as few bytes."""
    return zlib.compress(json.dumps(to_record(tree)).encode(), 1)
