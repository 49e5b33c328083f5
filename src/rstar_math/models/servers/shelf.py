"""The servers that this process has started, so that who needs the same one shares it.

A server ends when nobody uses it any more. Inside `keeping` it stays for who comes next, until a
server of another checkpoint is asked for (two would not fit the same GPUs), it is `put_away`, or
the block ends.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal
from weakref import WeakKeyDictionary

from rstar_math.config import TRAINED
from rstar_math.config.servers import VLLM, ServersConfig
from rstar_math.errors import ConfigError
from rstar_math.models.catalogue import find
from rstar_math.models.loading import trained_folder
from rstar_math.models.servers.launch import Order, Served, start
from rstar_math.tasks import together


@dataclass(slots=True, eq=False)
class _Group:
    """Like servers of one order, and how many use them."""

    orders: tuple[Order, ...]
    servers: list[Served]
    key: str
    users: int = 0


@dataclass(slots=True)
class Shelf:
    """The servers of one event loop."""

    keepers: int = 0
    groups: list[_Group] = field(default_factory=list)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class Lease:
    """The use of some servers of one model."""

    urls: tuple[str, ...]
    key: str = field(repr=False)
    name: str
    shelf: Shelf
    group: _Group

    async def end(self) -> None:
        """Give them back; to be called once."""
        async with self.shelf.lock:
            self.group.users -= 1
            if not self.shelf.keepers:
                await _end(self.shelf, [self.group])


_shelves: WeakKeyDictionary[asyncio.AbstractEventLoop, Shelf] = WeakKeyDictionary()


def _shelf() -> Shelf:
    return _shelves.setdefault(asyncio.get_running_loop(), Shelf())


@asynccontextmanager
async def keeping() -> AsyncIterator[None]:
    """A block in which servers that nobody uses are kept for who comes next."""
    shelf = _shelf()
    shelf.keepers += 1
    try:
        yield
    finally:
        shelf.keepers -= 1
        if not shelf.keepers:
            await put_away()


async def put_away() -> None:
    """End the servers that nobody uses: before a training that needs their memory."""
    shelf = _shelf()
    async with shelf.lock:
        await _end(shelf, shelf.groups)


async def policy_servers(address: str, config: ServersConfig) -> Lease:
    """The use of servers of vllm:FOLDER as a policy. Raises as `launch.start` does."""
    checkpoint, name = await asyncio.to_thread(_place, address, "policy")
    if name in config.adapters:
        raise ConfigError(
            f"servers.adapters has the name {name!r}, which is that of the model; give another."
        )
    order = Order(
        checkpoint=checkpoint,
        name=name,
        adapters=tuple(sorted(config.adapters.items())),
        options=(*config.options, *config.machine),
    )
    gpus: Sequence[str | None] = config.gpus or [None] * config.replicas
    return await lease([_on(order, one) for one in gpus], config)


async def ppm_server(address: str, config: ServersConfig) -> Lease:
    """The use of a server of vllm:FOLDER as a preference model. Raises as `launch.start` does."""
    checkpoint, name = await asyncio.to_thread(_place, address, "ppm")
    order = Order(checkpoint, name, options=config.ppm, pooling=True)
    return await lease([_on(order, config.ppm_gpus)], config)


async def lease(orders: Sequence[Order], config: ServersConfig) -> Lease:
    """The use of servers: of those that run already, if they were made to the same orders."""
    shelf = _shelf()
    async with shelf.lock:
        group = next((one for one in shelf.groups if one.orders == tuple(orders)), None)
        if group is not None and not await _all_answer(group):
            await _end(shelf, [group])
            group = group if group.users else None
        if group is None:
            alike = [one for one in shelf.groups if one.orders[0].pooling == orders[0].pooling]
            await _end(shelf, alike)
            key = secrets.token_urlsafe(24)
            servers = await _started(orders, config, key)
            group = _Group(tuple(orders), servers, key)
            shelf.groups.append(group)
        group.users += 1
    urls = tuple(server.url for server in group.servers)
    return Lease(urls, group.key, orders[0].name, shelf, group)


async def _started(orders: Sequence[Order], config: ServersConfig, key: str) -> list[Served]:
    """Servers that answer, all or none."""
    servers: list[Served] = []

    async def one(order: Order) -> None:
        servers.append(await start(order, config, key=key))

    try:
        await together(one(order) for order in orders)
    except BaseException:
        await asyncio.gather(*(server.stop() for server in servers))
        raise
    return servers


async def _all_answer(group: _Group) -> bool:
    """Whether servers that were started are still there."""
    return all(await asyncio.gather(*(server.answers() for server in group.servers)))


async def _end(shelf: Shelf, groups: Sequence[_Group]) -> None:
    """End those groups that nobody uses."""
    for group in [group for group in groups if not group.users]:
        shelf.groups.remove(group)
        await asyncio.gather(*(server.stop() for server in group.servers))


def _place(address: str, kind: Literal["policy", "ppm"]) -> tuple[str, str]:
    """A checkpoint, and what it is called."""
    checkpoint = os.path.expanduser(address.removeprefix(VLLM).rstrip("/"))
    if not checkpoint:
        raise ConfigError(f"{address} names no checkpoint; give vllm:FOLDER or vllm:ORG/NAME.")
    if checkpoint == TRAINED:
        checkpoint = str(trained_folder(kind))
    elif not os.path.isdir(checkpoint) and (model := find(checkpoint)) is not None:
        checkpoint = model.checkpoint  # vLLM downloads it
    return checkpoint, checkpoint.rpartition("/")[2]


def _on(order: Order, gpus: str | None) -> Order:
    """An order for certain GPUs."""
    return Order(order.checkpoint, order.name, order.adapters, gpus, order.options, order.pooling)
