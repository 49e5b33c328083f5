"""Answering one request: whole or as a stream, for as long as its client is there."""

import asyncio
import json
from collections.abc import Sequence
from time import monotonic
from typing import Any

from starlette.responses import JSONResponse

from rstar_math.serve.door import Receive, Scope, Send, Unread, Visit
from rstar_math.serve.jobs import Found, Job
from rstar_math.serve.metrics import Metrics
from rstar_math.serve.refusal import refusal_of
from rstar_math.serve.replies import Frame, answer_chunks, chunk, reply, tree_path
from rstar_math.serve.shelf import Shelf

PRIME_S = 0.2
"""How long a stream waits before it begins: what fails by then is an error with a status."""
PULSE_S = 0.5
"""Time between two looks at what is new, for a stream's lines of progress."""
REMIND_S = 10.0
"""Time after which a line is sent though nothing is new, so that the connection is kept."""


class Answering:
    """An ASGI response that runs a job. A client that leaves ends the search; one that reads slowly
    holds up neither the search nor others."""

    def __init__(self, job: Job, frame: Frame, shelf: Shelf, metrics: Metrics) -> None:
        self._job = job
        self._frame = frame
        self._shelf = shelf
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI. Raises what ended the search, if that was before the answer began."""
        work = asyncio.create_task(self._work())
        gone = asyncio.create_task(_left(receive))
        visit: Visit = scope["visit"]
        answer = self._stream if self._frame.order.stream else self._whole
        found: Sequence[Found] = ()
        try:
            visit.gone = not await answer(work, gone, send)
        finally:
            work.cancel()
            gone.cancel()
            await asyncio.wait({work, gone})
            self._job.give_up()
            if not work.cancelled() and work.exception() is None:
                found = work.result()
            self._count(visit, found, left=visit.gone or work.cancelled())

    async def _work(self) -> list[Found]:
        """Search, and keep the trees."""
        found = await self._job.run()
        if self._frame.order.keep:
            for one in found:
                await self._shelf.put(one, self._frame.order.strategy.name)
        return found

    async def _whole(
        self, work: "asyncio.Task[list[Found]]", gone: "asyncio.Task[None]", send: Send
    ) -> bool:
        """One answer in one piece; False where the client did not wait for it."""
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            return False
        response = JSONResponse(reply(self._frame, work.result()), headers=self._headers())
        await send({"type": "http.response.start", "status": 200, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": bytes(response.body)})
        return True

    async def _stream(
        self, work: "asyncio.Task[list[Found]]", gone: "asyncio.Task[None]", send: Send
    ) -> bool:
        """Progress while there is any, then the answer; False where the client left."""
        both = {work, gone}
        await asyncio.wait(both, timeout=PRIME_S, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
        headers = {"Content-Type": "text/event-stream; charset=utf-8", **self._headers()}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        stream = _Stream(send)
        try:
            await self._think_aloud(work, gone, stream)
            if not work.done():
                return False
            for piece in answer_chunks(self._frame, work.result()):
                await stream.event(piece)
        except Unread:
            return False
        except Exception as error:
            await stream.event(refusal_of(error).body)
            await stream.end()
            raise
        await stream.text("data: [DONE]\n\n")
        await stream.end()
        return True

    async def _think_aloud(
        self, work: "asyncio.Task[list[Found]]", gone: "asyncio.Task[None]", stream: "_Stream"
    ) -> None:
        """Say how far each search is until they are done or the client has left."""
        searches = range(len(self._job.trees))
        if self._frame.chat:
            for index in searches:
                begin = {"role": "assistant", "content": ""}
                await stream.event(chunk(self._frame, index, begin))
        told = [("", 0.0)] * len(searches)
        while not gone.done():
            done = work.done()
            for index in searches:
                far = self._job.progress(index, work.result()[index] if done else None)
                before, when = told[index]
                news = far.news or far.line
                if news == before and monotonic() - when < REMIND_S:
                    continue
                told[index] = (news, monotonic())
                if self._frame.chat:
                    thought = {"reasoning_content": far.line}
                    await stream.event(chunk(self._frame, index, thought, rstar=far.facts))
                else:
                    await stream.text(f": {far.line}\n")
            if done:
                return
            await asyncio.wait({work, gone}, timeout=PULSE_S, return_when=asyncio.FIRST_COMPLETED)

    def _headers(self) -> dict[str, str]:
        """Where the trees of the answers are."""
        if not self._frame.order.keep:
            return {}
        return {"X-Rstar-Tree": ", ".join(tree_path(name) for name in self._job.names)}

    def _count(self, visit: Visit, found: Sequence[Found], *, left: bool) -> None:
        """Write down what was done."""
        order, metrics = self._frame.order, self._metrics
        sampled = 0
        for tree in self._job.trees:
            metrics.tokens["prompt"] += tree.cost.prompt_tokens
            metrics.tokens["sampled"] += tree.cost.sampled_tokens
            metrics.tokens["scorer"] += tree.cost.scorer_tokens
            sampled += tree.cost.sampled_tokens
        for one in found:
            metrics.searches[one.ended] += 1
            metrics.answered += one.choice.answer is not None
        if not found:
            metrics.searches["client left" if left else "failed"] += len(self._job.trees)
        metrics.observe(self._job.seconds)
        visit.facts |= {"model": order.model, "strategy": order.strategy.name, "tokens": sampled}
        if found:
            visit.facts["ended"] = found[0].ended


class _Stream:
    """Server-sent events."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def event(self, value: dict[str, Any]) -> None:
        """Send a JSON object."""
        await self.text(f"data: {json.dumps(value, ensure_ascii=False)}\n\n")

    async def text(self, text: str) -> None:
        """Send text as it is."""
        await self._send({"type": "http.response.body", "body": text.encode(), "more_body": True})

    async def end(self) -> None:
        """Send the end."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    """Wait until the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
