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
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from weakref import WeakKeyDictionary

from rstar_math.checkpoints.folders import MALFORMED, cache_dir
from rstar_math.concurrency import gather
from rstar_math.config.sections import TRAINED, VLLM, ServersConfig
from rstar_math.errors import ConfigError, InputError, MissingDependencyError, ModelUnreachableError
from rstar_math.files import open_own
from rstar_math.llm.balancing import TRANSIENT_ERRORS, Replica
from rstar_math.models.loading import bundled_checkpoint
from rstar_math.models.names import find_model
from rstar_math.text import sanitize

_ERROR = re.compile(r"\b[A-Z]\w*(?:Error|Exception)\b: .+|\berror: .+|No module named .+")
_BELOW_ERROR = re.compile(r"\b(?:DEBUG|INFO|WARNING) \d\d-\d\d ")
"""Prefix of log lines that vLLM does not call errors, whatever their text is."""
_LOG_TAIL_BYTES = 256 << 10


def log_path(folder: str | None, name: str, port: int) -> Path:
    """Returns the path of a new log file. Creates its folder, by default in the cache."""
    logs = Path(folder).expanduser() if folder else cache_dir() / "servers"
    logs.mkdir(parents=True, exist_ok=True)
    safe_name = re.sub(r"[^\w.-]+", "_", name)[-60:] or "model"
    return logs / f"{safe_name}-{port}-{os.getpid()}-{time.time_ns() // 1_000_000}.log"


def summarize_log(log: Path) -> str:
    """Returns the first and last error in the end of a log, or else its last three lines.

    The text is sanitized and has at most 500 characters.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError as error:
        return f"its log cannot be read ({error.strerror})"
    lines = [sanitize(line.strip()) for line in lines if line.strip()]
    candidates = [line for line in lines if not _BELOW_ERROR.search(line)]
    errors = list(dict.fromkeys(m[0][:240] for line in candidates if (m := _ERROR.search(line))))
    summary = [errors[0], errors[-1]] if errors else lines[-3:]
    return " | ".join(dict.fromkeys(summary))[:500] or "it wrote nothing"


COMMAND_VARIABLE = "RSTAR_VLLM"
"""Environment variable with the start of vLLM's command line."""
WATCHDOG = Path(__file__).with_name("watchdog.py")
GRACE_S = 20.0
"""Time that a process gets to end after SIGTERM."""
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM accepts for --max-lora-rank."""


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """Model and options of a server."""

    checkpoint: str
    """Checkpoint folder, or name of a model on the hub."""
    name: str
    """Name of the model on the server."""
    adapters: tuple[tuple[str, str], ...] = ()
    """Names and folders of LoRA adapters."""
    gpus: str | None = None
    """Value of CUDA_VISIBLE_DEVICES; None leaves it unchanged."""
    args: tuple[str, ...] = ()
    """Further arguments of `vllm serve`."""
    pooling: bool = False
    """Whether the server scores or embeds text instead of generating it."""


@dataclass(slots=True)
class ServerProcess:
    """A running server."""

    url: str
    """Address, with /v1."""
    key: str = field(repr=False)
    """API key."""
    name: str
    """Name of the model on the server."""
    log: Path
    process: asyncio.subprocess.Process = field(repr=False)
    """The watchdog that runs the server."""
    keep_log: bool = True
    """Whether the log is kept after the server has stopped."""

    async def is_ready(self) -> bool:
        """Whether the server answers and lists its model."""
        replica = Replica(self.url, self.key, 1)
        try:
            reply = await replica.get(f"{replica.url}/models", 10.0)
        except TRANSIENT_ERRORS:
            return False
        finally:
            await replica.aclose()
        body = reply.json() if reply.status == 200 else None
        entries = body.get("data") if isinstance(body, dict) else None
        return isinstance(entries, list) and self.name in [
            entry.get("id") for entry in entries if isinstance(entry, dict)
        ]

    async def stop(self) -> None:
        """Stops the server with all its processes, and waits until they are gone.

        If the caller is cancelled, the server still stops before the cancellation continues.
        """
        stopping = asyncio.ensure_future(self._stop())
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            await stopping
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


async def start_server(
    spec: ServerSpec, config: ServersConfig, *, key: str | None = None
) -> ServerProcess:
    """Starts a server and returns it when it is ready; the caller must stop it.

    If another process takes the chosen port first, tries again with another port. On failure or
    cancellation, stops the process before raising. Raises `MissingDependencyError` without vLLM,
    `InputError` for a missing checkpoint or adapter, and `ConfigError`. Raises
    `ModelUnreachableError`, with the errors in the log, if the server does not become ready.
    """
    command = vllm_command(config)
    check_spec(spec)
    key = key or secrets.token_urlsafe(24)
    max_attempts = 3
    for attempt in range(1, max_attempts + 1):
        server = await _launch(command, spec, config, _free_port(), key)
        try:
            await wait_until_ready(server, config.startup_timeout_s)
        except BaseException as error:
            await server.stop()
            port_taken = "address already in use" in summarize_log(server.log).lower()
            can_retry = isinstance(error, ModelUnreachableError) and attempt < max_attempts
            if port_taken and can_retry:
                continue
            raise
        server.keep_log = config.log_dir is not None
        return server
    raise AssertionError("the last attempt returns or raises")


def vllm_command(config: ServersConfig) -> list[str]:
    """Returns the start of vLLM's command line, with the program's full path.

    Raises `MissingDependencyError` if the program is not found, and `ConfigError` if
    `RSTAR_VLLM` is not a valid command line.
    """
    try:
        from_environment = shlex.split(os.environ.get(COMMAND_VARIABLE, ""))
    except ValueError as error:
        raise ConfigError(
            f"{COMMAND_VARIABLE} is not a valid command line ({error}); correct it."
        ) from error
    command = [*(config.vllm_command or from_environment or ("vllm", "serve"))]
    path = find_program(command[0])
    if path is None:
        raise MissingDependencyError(
            f"The program {command[0]!r}, which serves models, was not found; type: pip install "
            "vllm, or give the program of another environment: "
            f"{COMMAND_VARIABLE}='/path/to/venv/bin/vllm serve'."
        )
    return [path, *command[1:]]


def find_program(program: str) -> str | None:
    """Returns the path of a program next to this Python or on PATH; None if it is not found."""
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return shutil.which(program, path=os.pathsep.join(folders))


def with_watchdog(command: Sequence[str]) -> list[str]:
    """Returns a command line that runs `command` under the watchdog.

    The watchdog ends the command and all its processes when this process ends, for any reason.
    """
    return [
        *(sys.executable, "-I", "-S", str(WATCHDOG), str(os.getpid()), str(GRACE_S)),
        *command,
    ]


def check_spec(spec: ServerSpec) -> None:
    """Raises `InputError` if the checkpoint is a path to a folder that does not exist."""
    if spec.checkpoint.startswith((".", "/")) and not os.path.isdir(spec.checkpoint):
        raise InputError(f"There is no checkpoint {spec.checkpoint} to serve; correct the folder.")


def vllm_arguments(spec: ServerSpec) -> list[str]:
    """Returns the arguments of `vllm serve`, except for the address.

    Sampling defaults are vLLM's own and not those of the checkpoint's `generation_config.json`, so
    that a request means the same on every server.
    """
    args = [spec.checkpoint, "--served-model-name", spec.name]
    if spec.pooling:
        args += ["--runner", "pooling"]
    else:
        args += ["--generation-config", "vllm", "--enable-prefix-caching"]
        args += ["--enable-prompt-tokens-details"]
    if spec.adapters:
        args += ["--enable-lora", "--max-lora-rank", str(_max_rank(spec.adapters))]
        args += ["--max-loras", str(len(spec.adapters))]
        args += ["--lora-modules", *(f"{name}={folder}" for name, folder in spec.adapters)]
    if spec.gpus is not None and "," in spec.gpus:
        args += ["--tensor-parallel-size", str(len(spec.gpus.split(",")))]
    return [*args, *spec.args]


def _max_rank(adapters: Sequence[tuple[str, str]]) -> int:
    """Returns the smallest of vLLM's maximum ranks that fits all adapters. Raises `InputError`."""
    highest = 1
    for _, folder in adapters:
        try:
            text = (Path(folder) / "adapter_config.json").read_text(encoding="utf-8")
            highest = max(highest, int(json.loads(text)["r"]))
        except (OSError, *MALFORMED) as error:
            raise InputError(
                f"{folder} is not a LoRA adapter in PEFT's format (adapter_config.json: "
                f"{error}); correct servers.adapters."
            ) from error
    return next((rank for rank in _RANKS if rank >= highest), highest)


async def _launch(
    command: Sequence[str], spec: ServerSpec, config: ServersConfig, port: int, key: str
) -> ServerProcess:
    """Starts a server's process, which does not answer yet."""
    log = log_path(config.log_dir, spec.name, port)
    address = ["--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "VLLM_API_KEY": key, "PYTHONUNBUFFERED": "1"}
    environment.pop("RSTAR_API_KEYS", None)
    environment["VLLM_NO_USAGE_STATS"] = "1"
    if spec.gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = spec.gpus
    with open_own(log) as file:
        process = await asyncio.create_subprocess_exec(
            *with_watchdog([*command, *vllm_arguments(spec), *address]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,
        )
    return ServerProcess(f"http://127.0.0.1:{port}/v1", key, spec.name, log, process)


async def wait_until_ready(server: ServerProcess, timeout_s: float) -> None:
    """Waits until a server lists its model. Raises `ModelUnreachableError`."""
    try:
        async with asyncio.timeout(timeout_s):
            while not await server.is_ready():
                if server.process.returncode is not None:
                    raise ModelUnreachableError(
                        f"vllm serve ended with code {server.process.returncode} before it "
                        f"answered: {summarize_log(server.log)} (its log: {server.log})"
                    )
                await asyncio.sleep(0.3)
    except TimeoutError:
        raise ModelUnreachableError(
            f"vllm serve did not answer within {timeout_s:.0f} s (servers.startup_timeout_s): "
            f"{summarize_log(server.log)} (its log: {server.log})"
        ) from None


def _free_port() -> int:
    """Returns a loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True, eq=False)
class _Group:
    """The replicas of one model, and how many leases use them."""

    specs: tuple[ServerSpec, ...]
    servers: list[ServerProcess]
    key: str
    users: int = 0


@dataclass(slots=True)
class ServerPool:
    """The servers that one event loop started."""

    keep_requests: int = 0
    """Number of `keep_servers` blocks; while there are any, unused servers keep running."""
    groups: list[_Group] = field(default_factory=list)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class ServerLease:
    """The right to use the servers of one model until it is released."""

    urls: tuple[str, ...]
    key: str = field(repr=False)
    name: str
    """Name of the model on the servers."""
    pool: ServerPool
    group: _Group

    async def release(self) -> None:
        """Ends the use of the servers, and stops them if nobody else needs them. Call it once."""
        async with self.pool.lock:
            self.group.users -= 1
            if not self.pool.keep_requests:
                await _stop_unused(self.pool, [self.group])


_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, ServerPool] = WeakKeyDictionary()


def _current_pool() -> ServerPool:
    return _pools.setdefault(asyncio.get_running_loop(), ServerPool())


@asynccontextmanager
async def keep_servers() -> AsyncIterator[None]:
    """Keeps unused servers running for later leases until the block ends."""
    pool = _current_pool()
    pool.keep_requests += 1
    try:
        yield
    finally:
        pool.keep_requests -= 1
        if not pool.keep_requests:
            await stop_idle_servers()


async def stop_idle_servers() -> None:
    """Stops all unused servers, for example before a training that needs their memory."""
    pool = _current_pool()
    async with pool.lock:
        await _stop_unused(pool, pool.groups)


async def policy_servers(address: str, config: ServersConfig) -> ServerLease:
    """Returns a lease on the servers of a policy, vllm:... Raises as `start_server` does."""
    checkpoint, name = await asyncio.to_thread(_resolve_checkpoint, address, "policy")
    if name in config.adapters:
        raise ConfigError(
            f"The name {name!r} in servers.adapters is the model's own name; choose another."
        )
    spec = ServerSpec(
        checkpoint=checkpoint,
        name=name,
        adapters=tuple(sorted(config.adapters.items())),
        args=(*config.args, *config.hardware_args),
    )
    gpus: Sequence[str | None] = config.gpus or [None] * config.replicas
    return await acquire([replace(spec, gpus=devices) for devices in gpus], config)


async def ppm_server(address: str, config: ServersConfig) -> ServerLease:
    """Returns a lease on the server of a PPM, vllm:... Raises as `start_server` does."""
    checkpoint, name = await asyncio.to_thread(_resolve_checkpoint, address, "ppm")
    spec = ServerSpec(checkpoint, name, gpus=config.ppm_gpus, args=config.ppm, pooling=True)
    return await acquire([spec], config)


async def reward_server(address: str, config: ServersConfig, *, pooling: bool) -> ServerLease:
    """Returns a lease on the server of a process reward model, vllm:...

    `pooling` is false for a language model that answers with a token. Raises as `start_server`
    does.
    """
    checkpoint, name = await asyncio.to_thread(_resolve_checkpoint, address, "ppm")
    spec = ServerSpec(checkpoint, name, gpus=config.ppm_gpus, args=config.ppm, pooling=pooling)
    return await acquire([spec], config)


async def acquire(specs: Sequence[ServerSpec], config: ServersConfig) -> ServerLease:
    """Returns a lease on servers: running ones with equal specs, or else new ones.

    Starting new servers first stops unused servers of the same kind (generating or pooling).
    """
    pool = _current_pool()
    async with pool.lock:
        group = next((group for group in pool.groups if group.specs == tuple(specs)), None)
        if group is not None and not await _all_ready(group):
            await _stop_unused(pool, [group])
            group = group if group.users else None
        if group is None:
            same_kind = [g for g in pool.groups if g.specs[0].pooling == specs[0].pooling]
            await _stop_unused(pool, same_kind)
            key = secrets.token_urlsafe(24)
            group = _Group(tuple(specs), await _start_all(specs, config, key), key)
            pool.groups.append(group)
        group.users += 1
    urls = tuple(server.url for server in group.servers)
    return ServerLease(urls, group.key, specs[0].name, pool, group)


async def _start_all(
    specs: Sequence[ServerSpec], config: ServersConfig, key: str
) -> list[ServerProcess]:
    """Starts several servers at once. If one fails, stops the others."""
    servers: list[ServerProcess] = []

    async def start(spec: ServerSpec) -> None:
        servers.append(await start_server(spec, config, key=key))

    try:
        await gather(start(spec) for spec in specs)
    except BaseException:
        await asyncio.gather(*(server.stop() for server in servers))
        raise
    return servers


async def _all_ready(group: _Group) -> bool:
    return all(await asyncio.gather(*(server.is_ready() for server in group.servers)))


async def _stop_unused(pool: ServerPool, groups: Sequence[_Group]) -> None:
    """Stops those of the groups that no lease uses."""
    for group in [group for group in groups if not group.users]:
        pool.groups.remove(group)
        await asyncio.gather(*(server.stop() for server in group.servers))


def _resolve_checkpoint(address: str, kind: Literal["policy", "ppm"]) -> tuple[str, str]:
    """Returns the checkpoint that vllm:... stands for, and its name on the server."""
    checkpoint = os.path.expanduser(address.removeprefix(VLLM).rstrip("/"))
    if not checkpoint:
        raise ConfigError(f"{address} names no checkpoint; give vllm:FOLDER or vllm:ORG/NAME.")
    if checkpoint == TRAINED:
        checkpoint = str(bundled_checkpoint(kind))
    elif not os.path.isdir(checkpoint) and (model := find_model(checkpoint)) is not None:
        checkpoint = model.checkpoint  # vLLM downloads it
    return checkpoint, checkpoint.rpartition("/")[2]
