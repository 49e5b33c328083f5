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
from rstar_math.search.records import from_record, to_record
from rstar_math.search.tree import Tree
from rstar_math.search.voting import Choice
from rstar_math.serve.jobs import SearchResult, VisibleText, answer_text, truncate, vote_line
from rstar_math.serve.requests import SearchRequest
from rstar_math.text import sanitize
from rstar_math.types import Cost, Problem
from rstar_math.viewer.export import write_page


@dataclass(frozen=True, slots=True)
class ReplyContext:
    """Fields of all replies and stream chunks of one request."""

    id: str
    created: int
    """Seconds since 1970."""
    request: SearchRequest
    chat: bool
    """Whether this is a chat completion rather than a text completion."""
    fingerprint: str
    """Hash of everything besides the request that answers depend on."""

    def head(self, *, chunk: bool) -> dict[str, Any]:
        """The first fields of every reply and chunk."""
        kind = "text_completion"
        if self.chat:
            kind = "chat.completion.chunk" if chunk else "chat.completion"
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.request.model,
            "system_fingerprint": self.fingerprint,
        }


def reply(context: ReplyContext, results: Sequence[SearchResult]) -> dict[str, Any]:
    """The reply to a request without streaming."""
    texts = [_visible_text(context.request, result) for result in results]
    choices = []
    for index, (result, text) in enumerate(zip(results, texts, strict=True)):
        choice: dict[str, Any] = {"index": index, "logprobs": None}
        if context.chat:
            choice["message"] = {
                "role": "assistant",
                "content": text.text,
                "reasoning_content": vote_line(result.choice),
                "refusal": None,
            }
        else:
            choice["text"] = text.text
        choice |= _final_fields(context.request, result, text)
        choices.append(choice)
    return {**context.head(chunk=False), "choices": choices, "usage": usage(results, texts)}


def chunk(
    context: ReplyContext, index: int, delta: dict[str, Any] | str, **more: Any
) -> dict[str, Any]:
    """One chunk of a stream: a message delta, or text."""
    content = {"delta": delta} if context.chat else {"text": delta}
    choice = {"index": index, **content, "logprobs": None, "finish_reason": None, **more}
    whole = {**context.head(chunk=True), "choices": [choice]}
    return {**whole, "usage": None} if context.request.include_usage else whole


def answer_chunks(
    context: ReplyContext, results: Sequence[SearchResult]
) -> Iterator[dict[str, Any]]:
    """The chunks after all searches have ended: the answers line by line, and the usage."""
    texts = [_visible_text(context.request, result) for result in results]
    for index, (result, text) in enumerate(zip(results, texts, strict=True)):
        if context.chat:
            yield chunk(context, index, {"reasoning_content": vote_line(result.choice)})
        for line in text.text.splitlines(keepends=True):
            yield chunk(context, index, {"content": line} if context.chat else line)
        final = _final_fields(context.request, result, text)
        yield chunk(context, index, {} if context.chat else "", **final)
    if context.request.include_usage:
        yield {**context.head(chunk=True), "choices": [], "usage": usage(results, texts)}


def usage(results: Sequence[SearchResult], texts: Sequence[VisibleText]) -> dict[str, Any]:
    """Token usage: all prompt tokens, and all tokens sampled by the model and the scorer.

    Sampled tokens that are not in the answer's text count as reasoning tokens.
    """
    cost = Cost.total(result.tree.cost for result in results)
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
    """The URL path of a tree's page."""
    return f"/trees/{name}"


def _visible_text(request: SearchRequest, result: SearchResult) -> VisibleText:
    """An answer's text, cut as the request asks."""
    limit = {
        "seconds": f"the limit of {request.seconds:g} s",
        "tokens": f"the limit of {request.max_search_tokens} tokens",
        "shutdown": "the server's shutdown",
    }.get(result.end_reason)
    text = answer_text(result.tree, result.choice, limit)
    return truncate(text, request.stop, request.max_text_tokens)


def _final_fields(
    request: SearchRequest, result: SearchResult, text: VisibleText
) -> dict[str, Any]:
    """The finish reason of a choice, and the facts about its search."""
    choice, cost = result.choice, result.tree.cost
    return {
        "finish_reason": "length" if text.truncated else "stop",
        "rstar": {
            "answer": None if choice.answer is None else sanitize(choice.answer),
            "share": round(choice.share, 6),
            "votes": {sanitize(answer): round(v, 6) for answer, v in choice.votes.items()},
            "strategy": request.strategy.name,
            "ended": result.end_reason,
            "stopped_early": result.tree.stop_reason,
            "steps": len(result.tree) - 1,
            "rollouts": result.tree.rollouts,
            "calls": cost.calls,
            "sampled_tokens": cost.sampled_tokens,
            "seconds": round(result.seconds, 3),
            "ignored": list(request.ignored),
            "tree": tree_path(result.name) if request.keep_trees else None,
        },
    }


MAX_CACHE_BYTES = 256 * 2**20
"""Maximum size of all cached trees, compressed."""


@dataclass(frozen=True, slots=True)
class _CachedTree:
    """A compressed tree with its result."""

    record: bytes
    choice: Choice
    cost: Cost
    strategy: str


class TreeCache:
    """The last `max_trees` trees, or fewer if they exceed `MAX_CACHE_BYTES`."""

    def __init__(self, max_trees: int) -> None:
        self._max_trees = max_trees
        self._trees: OrderedDict[str, _CachedTree] = OrderedDict()
        self._bytes = 0

    async def put(self, result: SearchResult, strategy: str) -> None:
        """Add a tree under its name. Compression runs in a thread."""
        record = await asyncio.to_thread(_compressed, result.tree)
        cost = replace(result.tree.cost)
        self._trees[result.name] = _CachedTree(record, result.choice, cost, strategy)
        self._bytes += len(record)
        while len(self._trees) > self._max_trees or self._bytes > MAX_CACHE_BYTES:
            _, oldest = self._trees.popitem(last=False)
            self._bytes -= len(oldest.record)

    def page(self, name: str) -> bytes | None:
        """The page of a tree, as `rstar view` exports it; None if the tree is not in the cache.

        Takes some milliseconds: call it in a thread.
        """
        cached = self._trees.get(name)
        if cached is None:
            return None
        tree = from_record(json.loads(zlib.decompress(cached.record)))
        tree.cost = cached.cost
        with tempfile.TemporaryDirectory(prefix="rstar-page-") as folder:
            target = Path(folder) / "page.html"
            with RunStore.open(Path(folder) / "answer.rstar", {}) as store:
                store.add_problems([Problem(tree.question)])
                store.save(cached.strategy, tree, cached.choice)
                write_page([store], target)
            return target.read_bytes()

    def __contains__(self, name: str) -> bool:
        return name in self._trees

    def __len__(self) -> int:
        return len(self._trees)


def _compressed(tree: Tree) -> bytes:
    """The record of a tree as compressed JSON."""
    return zlib.compress(json.dumps(to_record(tree)).encode(), 1)
