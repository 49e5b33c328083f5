"""The searches of a request: queued, monitored, ended by a limit, a disconnect or a shutdown."""

import asyncio
import re
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil
from time import monotonic
from typing import Any, Literal

from rstar_math.concurrency import gather
from rstar_math.errors import RstarError
from rstar_math.extraction import boxed
from rstar_math.prompts.grammar import program_output
from rstar_math.search.tree import Tree
from rstar_math.search.voting import Choice
from rstar_math.seeding import derive
from rstar_math.serve.requests import SearchRequest
from rstar_math.solver.solver import Solver
from rstar_math.text import count_noun, sanitize
from rstar_math.types import Step
from rstar_math.web.access import ApiError

TOKEN = re.compile(r"\s*\S{1,4}|\s+")
"""One token of an answer's text: up to 4 characters with the space before them. This is an
estimate: tokenizers differ, and a program's output was never sampled."""
_MAX_ANSWER_CHARS = 60
"""Maximum number of characters of an answer in a progress line."""


@dataclass(frozen=True, slots=True)
class VisibleText:
    """An answer's text as the client sees it."""

    text: str
    tokens: int
    """Estimated number of tokens."""
    truncated: bool
    """Whether the text was cut at the requested maximum number of tokens."""


def truncate(text: str, stop: Sequence[str], max_tokens: int | None) -> VisibleText:
    """The text up to the first stop string and up to `max_tokens`."""
    ends = [at for stop_text in stop if (at := text.find(stop_text)) >= 0]
    text = text[: min(ends)] if ends else text
    tokens = TOKEN.findall(text)
    if max_tokens is not None and len(tokens) > max_tokens:
        return VisibleText("".join(tokens[:max_tokens]), max_tokens, truncated=True)
    return VisibleText(text, len(tokens), truncated=False)


def answer_text(tree: Tree, choice: Choice, limit: str | None = None) -> str:
    """The chosen path: programs with their output, prose, and the boxed final answer last.

    Without an answer, the text explains why. `limit` names the limit that ended the search.
    """
    if choice.node is None or choice.answer is None:
        return sanitize(_no_answer_text(tree, limit))
    parts = list(_path_parts(tree.prefix(choice.node)))
    if not parts or boxed(parts[-1]) != choice.answer:
        parts.append(f"The answer is \\boxed{{{choice.answer}}}.")
    return sanitize("\n\n".join(parts))


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of an active search."""

    line: str
    """A line for people."""
    fields: dict[str, Any] = field(default_factory=dict)
    """For programs: steps, answers, the leading answer and its share of the votes in [0, 1]."""
    state: str = ""
    """A string that changes with every new step, answer, call or leader."""


def progress(tree: Tree, choice: Choice | None, seconds: float, request: SearchRequest) -> Progress:
    """The state of a search: counts, rate, and the leading answer with its share of the votes."""
    steps, answers = len(tree) - 1, len(tree.answer_nodes())
    rate = tree.cost.sampled_tokens / max(seconds, 1e-9)
    line = (
        f"{request.strategy.name}, {seconds:.1f} s: {count_noun(steps, 'step')} tried, "
        f"{count_noun(answers, 'answer')}, {count_noun(tree.cost.code_failures, 'program')} "
        f"failed, {rate:.0f} tokens/s."
    )
    fields: dict[str, Any] = {"steps": steps, "answers": answers, "answer": None, "share": None}
    if choice is not None and choice.answer is not None:
        fields |= {"answer": sanitize(choice.answer), "share": round(choice.share, 6)}
        answer = choice.answer
        if len(answer) > _MAX_ANSWER_CHARS:
            answer = f"{answer[:_MAX_ANSWER_CHARS]}…"
        line += f" Best so far: {_one_line(answer)} ({choice.share:.0%} of the votes)."
    state = f"{steps} {answers} {tree.cost.calls} {fields['share']} {fields['answer']}"
    return Progress(f"{line}\n", fields, state)


def _one_line(answer: str) -> str:
    """An answer without line breaks, so that it cannot look like further lines of progress."""
    return " ".join(sanitize(answer).split())


def vote_line(choice: Choice) -> str:
    """The votes in one line, in descending order."""
    if choice.answer is None:
        return "No path ended with an answer.\n"
    total = sum(choice.votes.values()) or 1.0
    votes = [f"{_one_line(a)[:_MAX_ANSWER_CHARS]} {v / total:.0%}" for a, v in choice.votes.items()]
    more = f" and {len(votes) - 5} more" if len(votes) > 5 else ""
    return f"Votes: {', '.join(votes[:5])}{more}.\n"


def _no_answer_text(tree: Tree, limit: str | None) -> str:
    """Why there is no answer, and what the user can do."""
    tried = f"{count_noun(len(tree) - 1, 'step')} tried"
    if reasons := ", ".join(f"{count} {reason}" for reason, count in tree.failures().items()):
        tried += f"; paths ended: {reasons}"
    if limit is not None:
        return f"No answer was found before {limit} ended the search ({tried}). Raise the limit."
    return (
        f"No answer was found ({tried}). Allow a longer search, for example with the model "
        "rstar-deep, or rephrase the question."
    )


def _path_parts(steps: Iterable[Step]) -> Iterable[str]:
    """The programs of a path, their output and its prose, in order.

    The prose of code steps stays in the programs, as comments.
    """
    block: list[Step] = []
    for step in steps:
        if step.kind in ("step", "code"):
            block.append(step)
            if step.kind == "code":
                yield from _program_parts(block)
                block = []
        elif step.prose.strip():
            yield step.prose.strip()
    yield from _program_parts(block)


def _program_parts(block: Sequence[Step]) -> Iterable[str]:
    """One program and its output."""
    if not block:
        return
    yield _fenced("".join(step.text for step in block).strip("\n"), "python")
    executions = [step.execution for step in block if step.execution is not None]
    if output := program_output(executions).rstrip():
        yield f"Output:\n\n{_fenced(output, '')}"


def _fenced(text: str, language: str) -> str:
    """A Markdown code block. Its fence is longer than every fence in the text."""
    longest = max((len(fence) for fence in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


POLL_S = 0.5
"""Interval at which limits are checked."""
EndReason = Literal["finished", "seconds", "tokens", "shutdown"]
"""Why a search ended: by itself, at the time or token limit, or at the server's shutdown."""


class SearchQueue:
    """A first-in, first-out queue that runs at most `capacity` requests at once."""

    def __init__(self, capacity: int, max_waiting: int) -> None:
        self._capacity = capacity
        self._max_waiting = max_waiting
        self.running = 0
        """Number of running requests."""
        self.waiting: deque[QueueSlot] = deque()
        self._mean_s = 1.0

    def enqueue(self) -> "QueueSlot":
        """A slot in the queue. Raises `ApiError` (429) if the queue is full. Does not wait."""
        if self.running >= self._capacity and len(self.waiting) >= self._max_waiting:
            wait_s = ceil(self._mean_s * (len(self.waiting) + 1) / self._capacity)
            raise ApiError(
                f"The queue is full: {self.running} requests are running and "
                f"{len(self.waiting)} wait; try again later.",
                429,
                code="queue_full",
                headers={"Retry-After": str(min(max(wait_s, 1), 60))},
            )
        slot = QueueSlot(self)
        self.waiting.append(slot)
        self._start_waiting()
        return slot

    def release(self, slot: "QueueSlot") -> None:
        """Free a running or waiting slot. A second call does nothing."""
        if slot in self.waiting:
            self.waiting.remove(slot)
        elif slot.started_at is not None:
            self.running -= 1
            self._mean_s += 0.1 * (monotonic() - slot.started_at - self._mean_s)
            slot.started_at = None
            self._start_waiting()

    def _start_waiting(self) -> None:
        """Start the first waiting requests while there is capacity."""
        while self.waiting and self.running < self._capacity:
            slot = self.waiting.popleft()
            slot.started_at = monotonic()
            slot.ready.set()
            self.running += 1


@dataclass(slots=True, eq=False)
class QueueSlot:
    """The place of one request in the queue."""

    queue: SearchQueue
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the request may run."""
    started_at: float | None = None
    """When the request started, by the monotonic clock; None before and after it runs."""

    @property
    def position(self) -> int:
        """Number of requests before this one in the queue; 0 if it may run."""
        return 0 if self.ready.is_set() else self.queue.waiting.index(self)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The result of one search."""

    tree: Tree
    choice: Choice
    end_reason: EndReason
    seconds: float
    name: str
    """The name of the tree in the cache: 192 random bits."""


class Job:
    """The searches of one request.

    Call `run` in a task. Cancelling the task ends all searches, and no model call is made after it.
    """

    def __init__(
        self,
        request: SearchRequest,
        solver: Solver,
        slot: QueueSlot,
        is_shutting_down: Callable[[], bool],
    ) -> None:
        self.request = request
        self.trees = [Tree(question) for question in request.questions for _ in range(request.n)]
        self.names = [secrets.token_urlsafe(24) for _ in self.trees]
        self._solver = solver
        self._slot = slot
        self._is_shutting_down = is_shutting_down
        self._leaders: dict[int, tuple[int, Choice]] = {}
        """By search: the number of answers at the last vote, and the vote's choice."""
        self._votes: dict[int, asyncio.Task[None]] = {}
        """Running votes by search."""
        self._created_at = monotonic()

    @property
    def seconds(self) -> float:
        """Time since the job was created, which includes the time in the queue."""
        return monotonic() - self._created_at

    def close(self) -> None:
        """Release the queue slot and stop voting. Safe to call if `run` never started."""
        for vote in self._votes.values():
            vote.cancel()
        self._slot.queue.release(self._slot)

    async def run(self) -> list[SearchResult]:
        """The results, ordered by question and then by answer. Releases the queue slot."""
        try:
            while not self._slot.ready.is_set():
                if self._is_shutting_down():
                    raise ApiError(
                        "The server is shutting down; try again later.", 503, code="shutdown"
                    )
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._slot.ready.wait(), POLL_S)
            return await gather(self._search(index) for index in range(len(self.trees)))
        finally:
            self.close()

    def progress(self, index: int, result: SearchResult | None = None) -> Progress:
        """The state of a search, or its final state if the `result` is given.

        Never waits: the leading answer comes from the last vote. New answers start a new vote in
        the background.
        """
        tree = self.trees[index]
        if not self._slot.ready.is_set():
            return Progress(f"In the queue; requests before this one: {self._slot.position}.\n")
        answers = len(tree.answer_nodes())
        voted_answers, choice = self._leaders.get(index, (0, None))
        if result is not None:
            choice = result.choice
        elif answers != voted_answers and index not in self._votes:
            self._votes[index] = asyncio.create_task(self._vote(index, answers))
        return progress(tree, choice, self.seconds, self.request)

    async def _vote(self, index: int, answers: int) -> None:
        """Find the leading answer of a search. Grading the answers may take time."""
        request = self.request
        try:
            with suppress(RstarError):
                choice = await self._solver.current_choice(
                    self.trees[index], request.strategy, search=request.search
                )
                self._leaders[index] = answers, choice
        finally:
            del self._votes[index]

    async def _search(self, index: int) -> SearchResult:
        """Run one search to its end or to a limit, and choose the best answer."""
        request, tree, started = self.request, self.trees[index], monotonic()
        seed = request.search.seed
        if index % request.n:
            seed = derive(seed, "answer", index % request.n)
        search = request.search.model_copy(update={"seed": seed})
        work = self._solver.solve(tree.question, request.strategy, tree=tree, search=search)
        task = asyncio.create_task(work)
        end_reason: EndReason = "finished"
        try:
            while not task.done():
                left_s = started + request.seconds - monotonic()
                await asyncio.wait({task}, timeout=max(0.0, min(POLL_S, left_s)))
                if not task.done() and (limit := self._reached_limit(tree, started)):
                    end_reason = limit
                    break
        finally:
            task.cancel()
            await asyncio.wait({task})
        if task.cancelled():
            choice = await self._solver.current_choice(tree, request.strategy, search=search)
        else:
            choice = task.result().choice
        return SearchResult(tree, choice, end_reason, monotonic() - started, self.names[index])

    def _reached_limit(self, tree: Tree, started: float) -> EndReason | None:
        """The limit that a search has reached, or None."""
        if monotonic() - started >= self.request.seconds:
            return "seconds"
        max_tokens = self.request.max_search_tokens
        if max_tokens is not None and tree.cost.sampled_tokens >= max_tokens:
            return "tokens"
        return "shutdown" if self._is_shutting_down() else None
