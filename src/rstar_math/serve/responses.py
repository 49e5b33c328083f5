"""Replies in the formats of the OpenAI API, and the cache of recent trees."""

import asyncio
import json
import tempfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rstar_math.runs.store import RunStore
from rstar_math.search.tree import Tree, from_record, to_record
from rstar_math.search.voting import Choice
from rstar_math.serve.jobs import SearchResult, Shown, answer_text, truncate, verdict_line
from rstar_math.serve.requests import SearchRequest
from rstar_math.text import sanitize
from rstar_math.types import Cost, Problem
from rstar_math.viewer.app import write_page


@dataclass(frozen=True, slots=True)
class ReplyContext:
    """What all replies to one request have in common."""

    id: str
    created: int
    """Seconds since 1970."""
    order: SearchRequest
    chat: bool
    """Whether it is a chat completion, and not a text completion."""
    fingerprint: str
    """What the server's answers depend on besides the request, as a hash."""

    def head(self, *, chunk: bool) -> dict[str, Any]:
        """The fields that every reply and every chunk begins with."""
        kind = "text_completion"
        if self.chat:
            kind = "chat.completion.chunk" if chunk else "chat.completion"
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.order.model,
            "system_fingerprint": self.fingerprint,
        }


def reply(frame: ReplyContext, found: Sequence[SearchResult]) -> dict[str, Any]:
    """The whole answer to a request."""
    texts = [_shown(frame.order, one) for one in found]
    choices = []
    for index, (one, text) in enumerate(zip(found, texts, strict=True)):
        choice: dict[str, Any] = {"index": index, "logprobs": None}
        if frame.chat:
            choice["message"] = {
                "role": "assistant",
                "content": text.text,
                "reasoning_content": verdict_line(one.choice),
                "refusal": None,
            }
        else:
            choice["text"] = text.text
        choice |= _end(frame.order, one, text)
        choices.append(choice)
    body = {"choices": choices, "usage": usage(found, texts)}
    return {**frame.head(chunk=False), **body}


def chunk(
    frame: ReplyContext, index: int, delta: dict[str, Any] | str, **more: Any
) -> dict[str, Any]:
    """One piece of a stream: a message's delta, or text."""
    said = {"delta": delta} if frame.chat else {"text": delta}
    choice = {"index": index, **said, "logprobs": None, "finish_reason": None, **more}
    whole = {**frame.head(chunk=True), "choices": [choice]}
    return {**whole, "usage": None} if frame.order.usage else whole


def answer_chunks(frame: ReplyContext, found: Sequence[SearchResult]) -> Iterator[dict[str, Any]]:
    """The rest of a stream once all is found: the answers line by line, and what they cost."""
    texts = [_shown(frame.order, one) for one in found]
    for index, (one, text) in enumerate(zip(found, texts, strict=True)):
        if frame.chat:
            why = verdict_line(one.choice)
            yield chunk(frame, index, {"reasoning_content": why})
        for line in text.text.splitlines(keepends=True):
            yield chunk(frame, index, {"content": line} if frame.chat else line)
        yield chunk(frame, index, {} if frame.chat else "", **_end(frame.order, one, text))
    if frame.order.usage:
        yield {**frame.head(chunk=True), "choices": [], "usage": usage(found, texts)}


def usage(found: Sequence[SearchResult], texts: Sequence[Shown]) -> dict[str, Any]:
    """What was consumed: all prompts that the model read and all tokens that it sampled, those of
    a scorer among them. What is not the answer's text is reasoning."""
    cost = Cost.total(one.tree.cost for one in found)
    visible = sum(text.tokens for text in texts)
    completion = max(cost.sampled_tokens + cost.scorer_tokens, visible)
    return {
        "prompt_tokens": cost.prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": cost.prompt_tokens + completion,
        "prompt_tokens_details": {"cached_tokens": cost.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": completion - visible},
    }


def tree_path(name: str) -> str:
    """Where a tree is shown."""
    return f"/trees/{name}"


def _shown(order: SearchRequest, found: SearchResult) -> Shown:
    """An answer's text as the request wants it."""
    limit = {
        "seconds": f"the limit of {order.seconds:g} s",
        "tokens": f"the limit of {order.cap} tokens",
        "shutdown": "the server's end",
    }.get(found.ended)
    return truncate(answer_text(found.tree, found.choice, limit), order.stop, order.most)


def _end(order: SearchRequest, found: SearchResult, text: Shown) -> dict[str, Any]:
    """How a choice ended, and the search behind it."""
    choice, cost = found.choice, found.tree.cost
    return {
        "finish_reason": "length" if text.cut else "stop",
        "rstar": {
            "answer": None if choice.answer is None else sanitize(choice.answer),
            "share": round(choice.share, 6),
            "votes": {sanitize(answer): round(v, 6) for answer, v in choice.votes.items()},
            "strategy": order.strategy.name,
            "ended": found.ended,
            "stopped_early": found.tree.stop_reason,
            "steps": len(found.tree) - 1,
            "rollouts": found.tree.rollouts,
            "calls": cost.calls,
            "sampled_tokens": cost.sampled_tokens,
            "seconds": round(found.seconds, 3),
            "tree": tree_path(found.name) if order.keep else None,
        },
    }


MOST_BYTES = 256 * 2**20
"""Most memory that kept trees take, packed."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A packed tree."""

    record: bytes
    choice: Choice
    cost: Cost
    strategy: str


class TreeCache:
    """The last `room` trees, and fewer where they are large; what is older is thrown away."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._bytes = 0

    async def put(self, found: SearchResult, strategy: str) -> None:
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
                store.save(kept.strategy, tree, kept.choice)
                write_page([store], target)
            return target.read_bytes()

    def __contains__(self, name: str) -> bool:
        return name in self._kept

    def __len__(self) -> int:
        return len(self._kept)


def _packed(tree: Tree) -> bytes:
    """A tree as few bytes."""
    return zlib.compress(json.dumps(to_record(tree)).encode(), 1)
