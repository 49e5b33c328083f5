"""What a request belongs to: all requests of one tree share most of their prompts, so that one
server should have them all.

    with belonging("q1"):
        await completer.complete(...)

The name travels with the asyncio context, as bills do (`rstar_math.meter`): whoever writes the
prompt need not know of servers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_tree: ContextVar[str | None] = ContextVar("rstar_math_tree", default=None)
_QUESTION = "\nQuestion:"


@contextmanager
def belonging(tree: str) -> Iterator[None]:
    """A block whose requests belong to one tree."""
    token = _tree.set(tree)
    try:
        yield
    finally:
        _tree.reset(token)


def belongs_to(prompt: str) -> str:
    """What the requests of this context belong to; outside of any tree the question that a prompt
    ends with (the line that begins with `Question:`), else the prompt's end; "" for none."""
    tree = _tree.get()
    if tree is not None:
        return tree
    at = f"\n{prompt}".rfind(_QUESTION)
    return prompt[-200:] if at < 0 else prompt[at:].lstrip("\n").partition("\n")[0]
