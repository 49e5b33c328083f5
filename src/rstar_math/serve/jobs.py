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
from rstar_math.text import sanitize
from rstar_math.types import Step
from rstar_math.web.access import ApiError

PIECE = re.compile(r"\s*\S{1,4}|\s+")
"""What counts as a token of text that is shown: up to 4 characters with the space before them. It
is an estimate: models differ, and what programs printed was never sampled."""
_LONGEST_ANSWER = 60
"""Characters of an answer that a line of progress shows."""


@dataclass(frozen=True, slots=True)
class Shown:
    """An answer's text as it is given out."""

    text: str
    tokens: int
    cut: bool
    """Whether it was ended by the most tokens that were asked for."""


def truncate(text: str, stop: Sequence[str], most: int | None) -> Shown:
    """The text up to the first stop and to `most` tokens."""
    ends = [at for mark in stop if (at := text.find(mark)) >= 0]
    text = text[: min(ends)] if ends else text
    pieces = PIECE.findall(text)
    if most is not None and len(pieces) > most:
        return Shown("".join(pieces[:most]), most, cut=True)
    return Shown(text, len(pieces), cut=False)


def answer_text(tree: Tree, choice: Choice, limit: str | None = None) -> str:
    """The chosen path: its programs with their output, its words, and the final answer last, in a
    box. Where no path came to an answer, that and why, also the `limit` that ended the search."""
    if choice.node is None or choice.answer is None:
        return sanitize(_nothing(tree, limit))
    parts = list(_parts(tree.prefix(choice.node)))
    if not parts or boxed(parts[-1]) != choice.answer:
        parts.append(f"The answer is \\boxed{{{choice.answer}}}.")
    return sanitize("\n\n".join(parts))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a search is."""

    line: str
    """For a person."""
    facts: dict[str, Any] = field(default_factory=dict)
    """For a program: steps, answers, and where one leads answer and share of the votes."""
    news: str = ""
    """What is compared to see whether there is anything new."""


def progress(tree: Tree, choice: Choice | None, seconds: float, order: SearchRequest) -> Progress:
    """How far a search is: what was tried, at what rate, and the best answer so far with its share
    of the votes."""
    steps, answers = len(tree) - 1, len(tree.answers())
    rate = tree.cost.sampled_tokens / max(seconds, 1e-9)
    line = (
        f"{order.strategy.name}, {seconds:.1f} s: {_many(steps, 'step')} tried, "
        f"{_many(answers, 'answer')}, {_many(tree.cost.code_failures, 'program')} "
        f"failed, {rate:.0f} tokens/s."
    )
    facts: dict[str, Any] = {"steps": steps, "answers": answers, "answer": None, "share": None}
    if choice is not None and choice.answer is not None:
        facts |= {"answer": sanitize(choice.answer), "share": round(choice.share, 6)}
        answer = choice.answer
        if len(answer) > _LONGEST_ANSWER:
            answer = f"{answer[:_LONGEST_ANSWER]}…"
        line += f" Best so far: {sanitize(answer)} ({choice.share:.0%} of the votes)."
    news = f"{steps} {answers} {tree.cost.calls} {facts['share']} {facts['answer']}"
    return Progress(f"{line}\n", facts, news)


def verdict_line(choice: Choice) -> str:
    """What speaks for the answer: the votes, first ones first."""
    if choice.answer is None:
        return "No path came to an answer.\n"
    total = sum(choice.votes.values()) or 1.0
    votes = [f"{sanitize(a)[:_LONGEST_ANSWER]} {v / total:.0%}" for a, v in choice.votes.items()]
    more = f" and {len(votes) - 5} more" if len(votes) > 5 else ""
    return f"Votes: {', '.join(votes[:5])}{more}.\n"


def _nothing(tree: Tree, limit: str | None) -> str:
    """Why there is no answer, and what to do."""
    tried = f"{_many(len(tree) - 1, 'step')} tried"
    if reasons := ", ".join(f"{count} {reason}" for reason, count in tree.failures().items()):
        tried += f"; paths ended: {reasons}"
    if limit is not None:
        return f"No answer was found before {limit} ended the search ({tried}). Allow more."
    return (
        f"No answer was found ({tried}). Allow a longer search, as with the model rstar-deep, or "
        "put the question in other words."
    )


def _parts(steps: Iterable[Step]) -> Iterable[str]:
    """A path's programs, their output and its words. The thoughts of a program are its comments."""
    block: list[Step] = []
    for step in steps:
        if step.kind in ("step", "code"):
            block.append(step)
            if step.kind == "code":
                yield from _program(block)
                block = []
        elif step.prose.strip():
            yield step.prose.strip()
    yield from _program(block)


def _program(block: Sequence[Step]) -> Iterable[str]:
    """One program and what it printed."""
    if not block:
        return
    yield _fenced("".join(step.text for step in block).strip("\n"), "python")
    runs = [step.execution for step in block if step.execution is not None]
    if output := program_output(runs).rstrip():
        yield f"Output:\n\n{_fenced(output, '')}"


def _fenced(text: str, language: str) -> str:
    """A block of code in Markdown, whatever it holds."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _many(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


TICK_S = 0.5
"""How often limits are looked at."""
Ended = Literal["finished", "seconds", "tokens", "shutdown"]
"""What ended a search: itself, a limit of time or tokens, or the server's end."""


class SearchQueue:
    """Seats for searches, and the line before them. First come, first served."""

    def __init__(self, seats: int, line: int) -> None:
        self._seats = seats
        self._line = line
        self.taken = 0
        """Requests that are searched for."""
        self.waiting: deque[QueueSlot] = deque()
        self._mean_s = 1.0

    def enqueue(self) -> "QueueSlot":
        """A place in the line, at once. Raises `ApiError` (429) where the line is full."""
        if self.taken >= self._seats and len(self.waiting) >= self._line:
            wait_s = ceil(self._mean_s * (len(self.waiting) + 1) / self._seats)
            raise ApiError(
                f"{self.taken} searches are running and {len(self.waiting)} wait, which is the "
                "most; try again later.",
                429,
                code="queue_full",
                headers={"Retry-After": str(min(max(wait_s, 1), 60))},
            )
        ticket = QueueSlot(self)
        self.waiting.append(ticket)
        self._call()
        return ticket

    def leave(self, ticket: "QueueSlot") -> None:
        """Give a seat or a place in the line back; a second time does nothing."""
        if ticket in self.waiting:
            self.waiting.remove(ticket)
        elif ticket.seated_at is not None:
            self.taken -= 1
            self._mean_s += 0.1 * (monotonic() - ticket.seated_at - self._mean_s)
            ticket.seated_at = None
            self._call()

    def _call(self) -> None:
        """Give free seats to the first in the line."""
        while self.waiting and self.taken < self._seats:
            ticket = self.waiting.popleft()
            ticket.seated_at = monotonic()
            ticket.turn.set()
            self.taken += 1


@dataclass(slots=True, eq=False)
class QueueSlot:
    """A place in the line or a seat."""

    queue: SearchQueue
    turn: asyncio.Event = field(default_factory=asyncio.Event)
    seated_at: float | None = None

    @property
    def position(self) -> int:
        """How many are before it in the line; 0 with a seat."""
        return 0 if self.turn.is_set() else self.queue.waiting.index(self)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search came to."""

    tree: Tree
    choice: Choice
    ended: Ended
    seconds: float
    name: str
    """Under which its tree is kept: 192 random bits."""


class Job:
    """The searches of one order. `run` it in a task; cancelling that ends all of them, and no call
    of the model is made after it."""

    def __init__(
        self, order: SearchRequest, solver: Solver, ticket: QueueSlot, ending: Callable[[], bool]
    ) -> None:
        self.order = order
        self.trees = [Tree(question) for question in order.questions for _ in range(order.n)]
        self.names = [secrets.token_urlsafe(24) for _ in self.trees]
        self._solver = solver
        self._ticket = ticket
        self._ending = ending
        self._seen: dict[int, tuple[int, Choice]] = {}
        """By search: how many answers there were at the last look, and what led."""
        self._looks: dict[int, asyncio.Task[None]] = {}
        self._begun = monotonic()

    @property
    def seconds(self) -> float:
        """Since it was put in line."""
        return monotonic() - self._begun

    def give_up(self) -> None:
        """Give the seat back, also where `run` never began, and look no more."""
        for look in self._looks.values():
            look.cancel()
        self._ticket.queue.leave(self._ticket)

    async def run(self) -> list[SearchResult]:
        """What was found, in the order of questions and answers. Gives the seat back."""
        try:
            while not self._ticket.turn.is_set():
                if self._ending():
                    raise ApiError("The server is ending; ask again later.", 503, code="shutdown")
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._ticket.turn.wait(), TICK_S)
            return await gather(self._think(index) for index in range(len(self.trees)))
        finally:
            self.give_up()

    def progress(self, index: int, found: SearchResult | None = None) -> Progress:
        """How far a search is; its last word where what it `found` is there. Never waits: the best
        answer is the one of the last look, and where there are new answers a look is begun."""
        tree = self.trees[index]
        if not self._ticket.turn.is_set():
            return Progress(f"Waiting for a turn, {self._ticket.position} before this one.\n")
        answers = len(tree.answers())
        seen, choice = self._seen.get(index, (0, None))
        if found is not None:
            choice = found.choice
        elif answers != seen and index not in self._looks:
            self._looks[index] = asyncio.create_task(self._look(index, answers))
        return progress(tree, choice, self.seconds, self.order)

    async def _look(self, index: int, answers: int) -> None:
        """See which answer leads; grading may take its time."""
        order = self.order
        try:
            with suppress(RstarError):
                choice = await self._solver.current_choice(
                    self.trees[index], order.strategy, search=order.search
                )
                self._seen[index] = answers, choice
        finally:
            del self._looks[index]

    async def _think(self, index: int) -> SearchResult:
        """One search, to its end or to a limit; then the best answer so far."""
        order, tree, started = self.order, self.trees[index], monotonic()
        seed = order.search.seed
        if index % order.n:
            seed = derive(seed, "answer", index % order.n)
        search = order.search.model_copy(update={"seed": seed})
        work = self._solver.solve(tree.question, order.strategy, tree=tree, search=search)
        task = asyncio.create_task(work)
        ended: Ended = "finished"
        try:
            while not task.done():
                left_s = started + order.seconds - monotonic()
                await asyncio.wait({task}, timeout=max(0.0, min(TICK_S, left_s)))
                if not task.done() and (limit := self._limit(tree, started)):
                    ended = limit
                    break
        finally:
            task.cancel()
            await asyncio.wait({task})
        if task.cancelled():
            choice = await self._solver.current_choice(tree, order.strategy, search=search)
        else:
            choice = task.result().choice
        return SearchResult(tree, choice, ended, monotonic() - started, self.names[index])

    def _limit(self, tree: Tree, started: float) -> Ended | None:
        """The limit that a search has come to."""
        if monotonic() - started >= self.order.seconds:
            return "seconds"
        if self.order.cap is not None and tree.cost.sampled_tokens >= self.order.cap:
            return "tokens"
        return "shutdown" if self._ending() else None
