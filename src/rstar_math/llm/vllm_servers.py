"""Starts, reuses and stops `vllm serve` processes. They listen on a free loopback port and require
a random key."""

import asyncio
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from weakref import WeakKeyDictionary

from rstar_math.checkpoints.folders import cache_dir
from rstar_math.concurrency import gather
from rstar_math.config.sections import TRAINED, VLLM, ServersConfig
from rstar_math.errors import ConfigError, InputError, MissingDependencyError, ModelUnreachableError
from rstar_math.llm.balancing import TRANSIENT_ERRORS, Replica
from rstar_math.models.loading import bundled_checkpoint
from rstar_math.models.names import find_model
from rstar_math.text import sanitize

_FAULT = re.compile(r"\b[A-Z]\w*(?:Error|Exception)\b: .+|\berror: .+|No module named .+")
_HARMLESS = re.compile(r"\b(?:DEBUG|INFO|WARNING) \d\d-\d\d ")
"""Lines that vLLM itself does not call errors, whatever they speak of."""
_READ = 256 << 10
"""Bytes of the end of a log that are looked through."""


def log_path(folder: str | None, name: str, port: int) -> Path:
    """A new file for the log of a server."""
    place = Path(folder).expanduser() if folder else cache_dir() / "servers"
    place.mkdir(parents=True, exist_ok=True)
    safe = re.sub(r"[^\w.-]+", "_", name)[-60:] or "model"
    return place / f"{safe}-{port}-{os.getpid()}-{time.time_ns() // 1_000_000}.log"


def summarize_log(log: Path) -> str:
    """The errors that the end of a log names, the first and the last of them, or else its last
    lines; in at most 500 harmless characters."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _READ))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError as error:
        return f"its log cannot be read ({error.strerror})"
    lines = [sanitize(line.strip()) for line in lines if line.strip()]
    grave = [line for line in lines if not _HARMLESS.search(line)]
    faults = list(dict.fromkeys(m[0][:240] for line in grave if (m := _FAULT.search(line))))
    told = [faults[0], *faults[-1:]] if faults else lines[-3:]
    return " | ".join(dict.fromkeys(told))[:500] or "it wrote nothing"


COMMAND = "RSTAR_VLLM"
"""Environment variable with the beginning of vLLM's command line."""
WATCHDOG = Path(__file__).with_name("watchdog.py")
GRACE_S = 20.0
"""How long what is started may take to end when it is told to."""
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as the highest rank of its adapters."""


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """What is to be served, and how."""

    checkpoint: str
    name: str
    adapters: tuple[tuple[str, str], ...] = ()
    """Names and folders."""
    gpus: str | None = None
    options: tuple[str, ...] = ()
    pooling: bool = False
    """Whether it scores or embeds instead of writing."""


@dataclass(slots=True)
class ServerProcess:
    """A server that runs."""

    url: str
    """Its address, with /v1."""
    key: str = field(repr=False)
    name: str
    """The model's name there."""
    log: Path
    process: asyncio.subprocess.Process = field(repr=False)
    keep_log: bool = True

    async def answers(self) -> bool:
        """Whether it lists its model."""
        door = Replica(self.url, self.key, 1)
        try:
            reply = await door.get(f"{door.url}/models", 10.0)
        except TRANSIENT_ERRORS:
            return False
        finally:
            await door.aclose()
        listed = reply.json() if reply.status == 200 else None
        entries = listed.get("data") if isinstance(listed, dict) else None
        return isinstance(entries, list) and self.name in [
            entry.get("id") for entry in entries if isinstance(entry, dict)
        ]

    async def stop(self) -> None:
        """End it with all its processes; returns when they are gone. A cancellation does not keep
        it from being ended."""
        ending = asyncio.ensure_future(self._stop())
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:
            await ending
            raise

    async def _stop(self) -> None:
        if self.process.returncode is None:
            self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), GRACE_S + 10)
            except TimeoutError:
                with suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
                await self.process.wait()
        if not self.keep_log:
            self.log.unlink(missing_ok=True)


@asynccontextmanager
async def serving_vllm(
    checkpoint: str | Path,
    *,
    name: str | None = None,
    adapters: Mapping[str, str | Path] | None = None,
    gpus: str | None = None,
    port: int = 0,
    extra: Sequence[str] = (),
    pooling: bool = False,
    config: ServersConfig | None = None,
) -> AsyncIterator[ServerProcess]:
    """A server of a checkpoint while the block runs: `served.url` with `served.key`.

    `name` is the model's there (by default the folder's), `adapters` are folders of PEFT by name,
    `gpus` is as CUDA_VISIBLE_DEVICES has it, `port` 0 is a free one, `extra` are further options of
    vLLM, `pooling` is for preference models. Raises `MissingDependencyError` where there is no vLLM
    and `ModelUnreachableError`, with the end of its log, where it does not come up.
    """
    order = ServerSpec(
        checkpoint=str(checkpoint),
        name=name or Path(checkpoint).name,
        adapters=tuple((one, str(place)) for one, place in (adapters or {}).items()),
        gpus=gpus,
        options=tuple(extra),
        pooling=pooling,
    )
    served = await start(order, config or ServersConfig(), port=port)
    try:
        yield served
    finally:
        await served.stop()


async def start(
    order: ServerSpec, config: ServersConfig, *, port: int = 0, key: str | None = None
) -> ServerProcess:
    """A server that answers. Raises as `serving_vllm` does; what was begun is ended then, also
    when the caller is cancelled."""
    command = program(config)
    check_spec(order)
    for turn in range(3):
        chosen = port or _free_port()
        served = await _launch(command, order, config, (chosen, key or secrets.token_urlsafe(24)))
        try:
            await wait_until_ready(served, config.startup_timeout_s)
        except BaseException as error:
            await served.stop()
            taken = "address already in use" in summarize_log(served.log).lower()
            if isinstance(error, ModelUnreachableError) and taken and not port and turn < 2:
                continue
            raise
        served.keep_log = config.log_dir is not None
        return served
    raise AssertionError("the last turn returns or raises")


def program(config: ServersConfig) -> list[str]:
    """The beginning of vLLM's command line. Raises `MissingDependencyError` where it cannot be
    run."""
    try:
        said = shlex.split(os.environ.get(COMMAND, ""))
    except ValueError as error:
        raise ConfigError(f"{COMMAND} is no command line ({error}); correct it.") from error
    command = [*(config.vllm_command or said or ("vllm", "serve"))]
    place = find_program(command[0])
    if place is None:
        raise MissingDependencyError(
            f"There is no program {command[0]!r} to serve models with; type: pip install vllm, or "
            f"name the one of another environment: {COMMAND}='/path/to/venv/bin/vllm serve'."
        )
    return [place, *command[1:]]


def find_program(program: str) -> str | None:
    """Where a program is, beside this Python or on the path; None where it is not."""
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return shutil.which(program, path=os.pathsep.join(folders))


def with_watchdog(command: Sequence[str]) -> list[str]:
    """A command line that runs another, and ends it with all its processes when this process ends,
    however that does."""
    return [
        *(sys.executable, "-I", "-S", str(WATCHDOG), str(os.getpid()), str(GRACE_S)),
        *command,
    ]


def check_spec(order: ServerSpec) -> None:
    """Nothing, where the checkpoint may be there; else raises `InputError`."""
    if order.checkpoint.startswith((".", "/")) and not os.path.isdir(order.checkpoint):
        raise InputError(f"There is no checkpoint {order.checkpoint} to serve; correct the folder.")


def arguments(order: ServerSpec) -> list[str]:
    """What follows `vllm serve`, but for where it listens.

    Sampling begins from vLLM's own defaults instead of the checkpoint's `generation_config.json`,
    so that a request means the same on every server.
    """
    parts = [order.checkpoint, "--served-model-name", order.name]
    if order.pooling:
        parts += ["--runner", "pooling"]
    else:
        parts += ["--generation-config", "vllm", "--enable-prefix-caching"]
        parts += ["--enable-prompt-tokens-details"]
    if order.adapters:
        parts += ["--enable-lora", "--max-lora-rank", str(_rank(order.adapters))]
        parts += ["--max-loras", str(len(order.adapters))]
        parts += ["--lora-modules", *(f"{name}={place}" for name, place in order.adapters)]
    if order.gpus is not None and "," in order.gpus:
        parts += ["--tensor-parallel-size", str(len(order.gpus.split(",")))]
    return [*parts, *order.options]


def _rank(adapters: Sequence[tuple[str, str]]) -> int:
    """The highest rank of some adapters, as vLLM counts. Raises `InputError`."""
    highest = 1
    for _, place in adapters:
        try:
            told = json.loads((Path(place) / "adapter_config.json").read_text(encoding="utf-8"))
            highest = max(highest, int(told["r"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{place} is no LoRA adapter in the layout of PEFT (adapter_config.json: "
                f"{error}); correct servers.adapters."
            ) from error
    return next((rank for rank in _RANKS if rank >= highest), highest)


async def _launch(
    command: Sequence[str], order: ServerSpec, config: ServersConfig, door: tuple[int, str]
) -> ServerProcess:
    """A server's process, which does not answer yet."""
    port, key = door
    log = log_path(config.log_dir, order.name, port)
    where = ["--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "VLLM_API_KEY": key, "PYTHONUNBUFFERED": "1"}
    environment["VLLM_NO_USAGE_STATS"] = "1"
    if order.gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = order.gpus
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            *with_watchdog([*command, *arguments(order), *where]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,
        )
    return ServerProcess(f"http://127.0.0.1:{port}/v1", key, order.name, log, process)


async def wait_until_ready(served: ServerProcess, start_s: float) -> None:
    """Wait until a server answers, to its key and with its model. Raises
    `ModelUnreachableError`."""
    try:
        async with asyncio.timeout(start_s):
            while not await served.answers():
                if served.process.returncode is not None:
                    raise ModelUnreachableError(
                        f"vllm serve ended with code {served.process.returncode} before it "
                        f"answered: {summarize_log(served.log)} (its log: {served.log})"
                    )
                await asyncio.sleep(0.3)
    except TimeoutError:
        raise ModelUnreachableError(
            f"vllm serve did not answer within {start_s:.0f} s (servers.startup_timeout_s): "
            f"{summarize_log(served.log)} (its log: {served.log})"
        ) from None


def _free_port() -> int:
    """A port of the loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True, eq=False)
class _Group:
    """Like servers of one order, and how many use them."""

    orders: tuple[ServerSpec, ...]
    servers: list[ServerProcess]
    key: str
    users: int = 0


@dataclass(slots=True)
class ServerPool:
    """The servers of one event loop."""

    keepers: int = 0
    groups: list[_Group] = field(default_factory=list)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class ServerLease:
    """The use of some servers of one model."""

    urls: tuple[str, ...]
    key: str = field(repr=False)
    name: str
    pool: ServerPool
    group: _Group

    async def end(self) -> None:
        """Give them back; to be called once."""
        async with self.pool.lock:
            self.group.users -= 1
            if not self.pool.keepers:
                await _end(self.pool, [self.group])


_shelves: WeakKeyDictionary[asyncio.AbstractEventLoop, ServerPool] = WeakKeyDictionary()


def _pool() -> ServerPool:
    return _shelves.setdefault(asyncio.get_running_loop(), ServerPool())


@asynccontextmanager
async def keep_servers() -> AsyncIterator[None]:
    """A block in which servers that nobody uses are kept for who comes next."""
    pool = _pool()
    pool.keepers += 1
    try:
        yield
    finally:
        pool.keepers -= 1
        if not pool.keepers:
            await stop_idle_servers()


async def stop_idle_servers() -> None:
    """End the servers that nobody uses: before a training that needs their memory."""
    pool = _pool()
    async with pool.lock:
        await _end(pool, pool.groups)


async def policy_servers(address: str, config: ServersConfig) -> ServerLease:
    """The use of servers of vllm:FOLDER as a policy. Raises as `start` does."""
    checkpoint, name = await asyncio.to_thread(_place, address, "policy")
    if name in config.adapters:
        raise ConfigError(
            f"servers.adapters has the name {name!r}, which is that of the model; give another."
        )
    order = ServerSpec(
        checkpoint=checkpoint,
        name=name,
        adapters=tuple(sorted(config.adapters.items())),
        options=(*config.args, *config.hardware_args),
    )
    gpus: Sequence[str | None] = config.gpus or [None] * config.replicas
    return await acquire([_on(order, one) for one in gpus], config)


async def ppm_server(address: str, config: ServersConfig) -> ServerLease:
    """The use of a server of vllm:FOLDER as a preference model. Raises as `start` does."""
    checkpoint, name = await asyncio.to_thread(_place, address, "ppm")
    order = ServerSpec(checkpoint, name, options=config.ppm, pooling=True)
    return await acquire([_on(order, config.ppm_gpus)], config)


async def acquire(orders: Sequence[ServerSpec], config: ServersConfig) -> ServerLease:
    """The use of servers: of those that run already, if they were made to the same orders."""
    pool = _pool()
    async with pool.lock:
        group = next((one for one in pool.groups if one.orders == tuple(orders)), None)
        if group is not None and not await _all_answer(group):
            await _end(pool, [group])
            group = group if group.users else None
        if group is None:
            alike = [one for one in pool.groups if one.orders[0].pooling == orders[0].pooling]
            await _end(pool, alike)
            key = secrets.token_urlsafe(24)
            servers = await _started(orders, config, key)
            group = _Group(tuple(orders), servers, key)
            pool.groups.append(group)
        group.users += 1
    urls = tuple(server.url for server in group.servers)
    return ServerLease(urls, group.key, orders[0].name, pool, group)


async def _started(
    orders: Sequence[ServerSpec], config: ServersConfig, key: str
) -> list[ServerProcess]:
    """Servers that answer, all or none."""
    servers: list[ServerProcess] = []

    async def one(order: ServerSpec) -> None:
        servers.append(await start(order, config, key=key))

    try:
        await gather(one(order) for order in orders)
    except BaseException:
        await asyncio.gather(*(server.stop() for server in servers))
        raise
    return servers


async def _all_answer(group: _Group) -> bool:
    """Whether servers that were started are still there."""
    return all(await asyncio.gather(*(server.answers() for server in group.servers)))


async def _end(pool: ServerPool, groups: Sequence[_Group]) -> None:
    """End those groups that nobody uses."""
    for group in [group for group in groups if not group.users]:
        pool.groups.remove(group)
        await asyncio.gather(*(server.stop() for server in group.servers))


def _place(address: str, kind: Literal["policy", "ppm"]) -> tuple[str, str]:
    """A checkpoint, and what it is called."""
    checkpoint = os.path.expanduser(address.removeprefix(VLLM).rstrip("/"))
    if not checkpoint:
        raise ConfigError(f"{address} names no checkpoint; give vllm:FOLDER or vllm:ORG/NAME.")
    if checkpoint == TRAINED:
        checkpoint = str(bundled_checkpoint(kind))
    elif not os.path.isdir(checkpoint) and (model := find_model(checkpoint)) is not None:
        checkpoint = model.checkpoint  # vLLM downloads it
    return checkpoint, checkpoint.rpartition("/")[2]


def _on(order: ServerSpec, gpus: str | None) -> ServerSpec:
    """An order for certain GPUs."""
    return ServerSpec(
        order.checkpoint, order.name, order.adapters, gpus, order.options, order.pooling
    )
