"""A proxy in front of a model server that counts the tokens of every answer.

All packages are compared by these counts, which the model server reports, and not by their own.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web


@dataclass(slots=True)
class Counts:
    """The traffic of one package."""

    requests: int = 0
    refused: int = 0
    """Requests that the model server did not answer with status 200."""
    sampled_tokens: int = 0
    prompt_tokens: int = 0
    started: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy."""

    url: str
    counts: Counts


@asynccontextmanager
async def counting_proxy(upstream: str) -> AsyncIterator[Proxy]:
    """Run a proxy for `upstream` (http://host:port/v1) on a free port of the loopback interface."""
    counts = Counts()
    timeout = aiohttp.ClientTimeout(total=3600)
    async with aiohttp.ClientSession(timeout=timeout) as session:

        async def forward(request: web.Request) -> web.Response:
            address = f"{upstream}/{request.match_info['path']}"
            body = await request.read()
            async with session.request(request.method, address, data=body, headers=JSON) as reply:
                text = await reply.read()
            count(counts, request.method, reply.status, text)
            return web.Response(body=text, status=reply.status, content_type="application/json")

        app = web.Application(client_max_size=2**28)
        app.router.add_route("*", "/v1/{path:.*}", forward)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield Proxy(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", counts)
        finally:
            await runner.cleanup()


JSON = {"Content-Type": "application/json"}


def count(counts: Counts, method: str, status: int, text: bytes) -> None:
    """Count one answer."""
    if method != "POST":
        return
    counts.requests += 1
    if status != 200:
        counts.refused += 1
        return
    usage: dict[str, Any] = json.loads(text).get("usage") or {}
    counts.sampled_tokens += usage.get("completion_tokens") or 0
    counts.prompt_tokens += usage.get("prompt_tokens") or 0


async def run_process(command: list[str], environment: dict[str, str] | None = None) -> str:
    """Run a command to its end and return its output. Raises `RuntimeError` if it fails."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment
    )
    out, errors = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{command[:3]} failed: {errors.decode()[-2000:]}")
    return out.decode()
