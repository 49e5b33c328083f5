"""Connects to the model that an address or name stands for."""

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Protocol

from rstar_math.checkpoints.folders import require_torch
from rstar_math.confidence import LogprobOptions
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
    """A Completer that holds a connection, or a model in memory, until it is closed."""

    name: str
    logprobs: LogprobOptions | None
    """Token log-probabilities that are requested with every sample; None requests none."""
    prompting: Prompting
    """The model's chat template, and how it was prompted in training."""

    async def aclose(self) -> None:
        """Closes the connection or frees the model."""
        ...


async def connect(
    config: ModelConfig, servers: ServersConfig | None = None, *, chat: bool = True
) -> Connection:
    """Returns a connection to the model that `config.url` names; the caller must close it.

    llama.cpp runs the embedded model (as published or trained), models of the catalogue, and GGUF
    files from disk or the hub. transformers runs checkpoints (hf:FOLDER, hf:ORG/NAME). vLLM serves
    vllm:... as `servers` says. Everything else is the address of OpenAI-compatible servers.

    Downloads a model that is not on this disk (see `models.downloads`). Requests a server's list of
    models first, so that a wrong address, key or model name fails at once. With `chat`, also finds
    out how a server's model is prompted in chat (`Connection.prompting`). Raises
    `ModelUnreachableError`, `ModelRejectedError`, `DownloadError`, `MissingDependencyError`,
    `InputError` or `ConfigError`.
    """
    named = parse_name(config.url) if config.embedded and "," not in config.url else None
    if named is not None and named.engine == "llama.cpp":
        if config.name is not None:
            raise ConfigError(
                "model.name selects one of several models on a server; leave it out for "
                f"{config.url}."
            )
        from rstar_math.llm.local import LocalModel

        return LocalModel(
            await resolve_gguf(named),
            slots=config.in_flight,
            context_tokens=config.context_tokens,
            adapter=config.adapter,
        )
    if config.adapter is not None:
        raise ConfigError(
            "model.adapter is for the embedded model only; leave it out. For a server, load "
            "adapters with the server's own options (servers.adapters for vllm:...) and select one "
            "with model.name."
        )
    if named is not None:
        from rstar_math.llm.local import TransformersModel

        if named.kind in ("catalogue", "hub-checkpoint"):
            require_torch()
            await _download(named)
        return await asyncio.to_thread(
            TransformersModel.load, named.text, max_tokens=config.context_tokens
        )
    model = await _open_client(config, servers or ServersConfig())
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


async def resolve_gguf(name: ModelName) -> str:
    """Returns what `LocalModel` loads for a name: "local", "trained" or the path of a .gguf file.

    Downloads the file if it is not on this disk.
    """
    return name.text if name.kind in ("packaged", "file") else await _download(name)


async def _download(name: ModelName) -> str:
    """Returns a model's path, after downloading it in another thread if it is missing.

    Cancelling stops the download; a later call resumes it.
    """
    cancelled = threading.Event()
    with current_display() as display:

        def report(progress: Progress) -> None:
            if cancelled.is_set():
                raise InterruptedError
            display(progress)

        try:
            return str(await asyncio.to_thread(resolve_model, name, report))
        except asyncio.CancelledError:
            cancelled.set()
            raise


async def _open_client(config: ModelConfig, servers: ServersConfig) -> "OpenAIClient":
    """Returns a client of the servers at an address, or of vLLM servers started for vllm:..."""
    from rstar_math.llm.client import OpenAIClient, Retry, split_addresses

    url, name, key, on_close = config.url, config.name, os.environ.get(config.api_key_env), None
    if url.startswith(VLLM):
        from rstar_math.llm.vllm_servers import policy_servers

        lease = await policy_servers(url, servers)
        url, name = ",".join(lease.urls), name or lease.name
        key, on_close = lease.key, lease.release
    elif not all(part.startswith(("http://", "https://")) for part in split_addresses(url)):
        raise unknown_model_error(url)
    return OpenAIClient(
        url,
        name=name,
        key=key,
        concurrency=config.in_flight,
        retry=Retry(max_retries=config.max_retries, timeout_s=config.timeout_s),
        affinity=config.affinity,
        on_close=on_close,
    )
