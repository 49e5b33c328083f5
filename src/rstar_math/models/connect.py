"""From an address to a Completer."""

import asyncio
import os
from typing import TYPE_CHECKING, Protocol

from rstar_math.config import HF, LOCAL, TRAINED, ModelConfig
from rstar_math.config.servers import VLLM, ServersConfig
from rstar_math.errors import ConfigError
from rstar_math.models.prompting import Prompting, prompting_of_folder
from rstar_math.protocols import Completer

if TYPE_CHECKING:
    from rstar_math.models.http import HttpModel


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
    """A model that answers: the embedded one as published or trained, a .gguf file, a checkpoint of
    transformers (hf:FOLDER), one that vLLM serves (vllm:FOLDER; `servers` says how), or
    OpenAI-compatible servers.

    With `chat` it finds out how a server's model is asked in chat (`Connection.prompting`).

    Asks a server for its list of models first, so that a wrong address, key or model name is an
    error here and not after an hour. Raises `ModelUnreachable`, `ModelRefused`, `MissingExtra`,
    `InputError` or `ConfigError`.
    """
    if config.url in (LOCAL, TRAINED) or config.url.endswith(".gguf"):
        if config.name is not None:
            raise ConfigError(
                "model.name is for servers that hold several models; leave it out for "
                f"{config.url}."
            )
        from rstar_math.models.local import LocalModel

        return LocalModel(
            config.url,
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
    if config.url.startswith(HF):
        from rstar_math.models.inprocess import TransformersModel

        base, most = config.url.removeprefix(HF), config.context_tokens
        return await asyncio.to_thread(TransformersModel.load, base, limit=most)
    model = await _on_servers(config, servers or ServersConfig())
    try:
        await model.greet()
        if config.url.startswith(VLLM):
            model.prompting = prompting_of_folder(config.url.removeprefix(VLLM))
        elif chat:
            await model.learn_prompting()
    except BaseException:
        await model.aclose()
        raise
    return model


async def _on_servers(config: ModelConfig, servers: ServersConfig) -> "HttpModel":
    """A client of the servers that an address names, or that are started for it."""
    from rstar_math.models.http import HttpModel, Retry, addresses

    url, name, key, held = config.url, config.name, os.environ.get(config.api_key_env), None
    if url.startswith(VLLM):
        from rstar_math.models.servers.shelf import policy_servers

        lease = await policy_servers(url, servers)
        url, name, key, held = ",".join(lease.urls), name or lease.name, lease.key, lease.end
    elif not all(one.startswith(("http://", "https://")) for one in addresses(url)):
        raise ConfigError(
            f"The model {url!r} is neither local, trained, a .gguf file, hf:FOLDER, vllm:FOLDER "
            "nor an address; give local, trained, path/to/model.gguf, hf:path/to/checkpoint or "
            "http://host:port/v1."
        )
    return HttpModel(
        url,
        name=name,
        key=key,
        concurrency=config.in_flight,
        retry=Retry(tries=config.retries, timeout_s=config.timeout_s),
        affinity=config.affinity,
        held=held,
    )
