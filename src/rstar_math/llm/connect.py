"""Connects to the model of an address."""

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Protocol

from rstar_math.checkpoints.folders import require_torch
from rstar_math.config.sections import VLLM, ModelConfig, ServersConfig
from rstar_math.errors import ConfigError
from rstar_math.models.downloads import resolve_model
from rstar_math.models.names import ModelName, parse_name, unknown_model_error
from rstar_math.models.prompting import NOTHING_KNOWN, Prompting, prompting_of_folder
from rstar_math.progress import Progress, current_display
from rstar_math.protocols import Completer

if TYPE_CHECKING:
    from rstar_math.llm.client import OpenAIClient


class Connection(Completer, Protocol):
    """A Completer that holds a connection or a model in memory until closed."""

    name: str
    prompting: Prompting
    """How the model wants to be asked."""

    async def aclose(self) -> None:
        """Give back what it holds."""
        ...


async def connect(
    config: ModelConfig, servers: ServersConfig | None = None, *, chat: bool = True
) -> Connection:
    """A model that answers: the embedded one as published or trained, a model of the catalogue, a
    .gguf file or a GGUF file of the hub in llama.cpp, a checkpoint of transformers (hf:FOLDER,
    hf:ORG/NAME), one that vLLM serves (vllm:...; `servers` says how), or OpenAI-compatible servers.

    With `chat` it finds out how a server's model is asked in chat (`Connection.prompting`).
    Downloads a model that is not on this disk (see `models.downloads`). Asks a server for its list
    of models first, so that a wrong address, key or model name is an error here and not after an
    hour. Raises `ModelUnreachableError`, `ModelRejectedError`, `DownloadError`,
    `MissingDependencyError`, `InputError` or `ConfigError`.
    """
    meant = parse_name(config.url) if config.embedded and "," not in config.url else None
    if meant is not None and meant.engine == "llama.cpp":
        if config.name is not None:
            raise ConfigError(
                "model.name is for servers that hold several models; leave it out for "
                f"{config.url}."
            )
        from rstar_math.llm.local import LocalModel

        return LocalModel(
            await gguf_of(meant),
            streams=config.in_flight,
            context_tokens=config.context_tokens,
            adapter=config.adapter,
        )
    if config.adapter is not None:
        raise ConfigError(
            "model.adapter is for the embedded model; a server loads adapters itself, by its own "
            "options (one that is started here, those of servers.adapters), and model.name chooses "
            "among them. Leave it out."
        )
    if meant is not None:
        from rstar_math.llm.local import TransformersModel

        if meant.kind in ("catalogue", "hub-checkpoint"):
            require_torch()
            await _downloaded(meant)
        base, most = meant.text, config.context_tokens
        return await asyncio.to_thread(TransformersModel.load, base, limit=most)
    model = await _on_servers(config, servers or ServersConfig())
    try:
        await model.check_server()
        if config.url.startswith(VLLM):
            model.prompting = prompting_of_folder(config.url.removeprefix(VLLM))
        if chat and model.prompting == NOTHING_KNOWN:
            await model.learn_prompting()
    except BaseException:
        await model.aclose()
        raise
    return model


async def gguf_of(meant: ModelName) -> str:
    """What `LocalModel` loads for a name: "local", "trained" or the path of a .gguf file, which is
    downloaded if it is not on this disk."""
    return meant.text if meant.kind in ("packaged", "file") else await _downloaded(meant)


async def _downloaded(meant: ModelName) -> str:
    """Where a model is; it is downloaded in another thread. When cancelled, the download stops and
    can go on later."""
    stop = threading.Event()
    with current_display() as display:

        def report(progress: Progress) -> None:
            if stop.is_set():
                raise InterruptedError
            display(progress)

        try:
            return str(await asyncio.to_thread(resolve_model, meant, report))
        except asyncio.CancelledError:
            stop.set()
            raise


async def _on_servers(config: ModelConfig, servers: ServersConfig) -> "OpenAIClient":
    """A client of the servers that an address names, or that are started for it."""
    from rstar_math.llm.client import OpenAIClient, Retry, addresses

    url, name, key, held = config.url, config.name, os.environ.get(config.api_key_env), None
    if url.startswith(VLLM):
        from rstar_math.llm.vllm_servers import policy_servers

        lease = await policy_servers(url, servers)
        url, name, key, held = ",".join(lease.urls), name or lease.name, lease.key, lease.end
    elif not all(one.startswith(("http://", "https://")) for one in addresses(url)):
        raise unknown_model_error(url)
    return OpenAIClient(
        url,
        name=name,
        key=key,
        concurrency=config.in_flight,
        retry=Retry(tries=config.max_retries, timeout_s=config.timeout_s),
        affinity=config.affinity,
        held=held,
    )
