"""llama.cpp's server inside this process. It listens on a port of its own choice on the loopback,
behind a random key, so that no other user of the machine can use it."""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstar_math.errors import InputError, MissingExtra, ModelRefused
from rstar_math.models.http import HttpModel, Retry
from rstar_math.models.slots import STATE_FOLDER, can_save

PATIENCE_S = 86_400.0
"""Longest wait for the embedded model: it is slow where the machine is busy, and never lost."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How llama.cpp is started."""

    streams: int
    """Sequences in its memory at once, each in a slot with a cache of its own (see `slots`)."""
    context_tokens: int
    """Longest of them, in tokens."""
    adapter: Path | None = None
    """A LoRA adapter that is added to the weights."""
    embeddings: bool = False
    """Whether it gives last hidden states, as they are, instead of text."""


def start(path: Path, settings: EngineSettings) -> tuple[Any, str]:
    """A running server and its key. Raises `MissingExtra`, and `ModelRefused` or `InputError` for
    files that llama.cpp does not load."""
    try:
        import xllamacpp
    except ImportError as error:
        raise MissingExtra(
            "The embedded model needs xllamacpp; type: pip install 'rstar-math[local]' "
            "(or name a server with --model http://host:port/v1)."
        ) from error
    key = secrets.token_urlsafe(24)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = settings.streams
    params.n_ctx = settings.streams * settings.context_tokens
    params.kv_unified = False
    params.cache_ram_mib = 0
    params.warmup = False
    # The file's own chat template is a program of unknown origin that llama.cpp would run at load
    # without limits; prompts are rendered by `steps.chat_template` instead.
    params.use_jinja = False
    params.chat_template = "chatml"
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [key]
    params.endpoint_metrics = True
    params.ui = False
    params.verbosity = -1
    params.cpuparams.n_threads = len(os.sched_getaffinity(0))
    params.n_threads_http = settings.streams + 16
    if can_save():
        params.slot_save_path = STATE_FOLDER
    if settings.adapter is not None:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(settings.adapter), 1.0)]
    if settings.embeddings:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_LAST
        params.embd_normalize = -1
    try:
        return xllamacpp.Server(params), key
    except RuntimeError as error:
        if settings.adapter is not None:
            raise InputError(
                f"llama.cpp cannot load {path} with the adapter {settings.adapter}: {error}; was "
                "the adapter trained on that model?"
            ) from error
        raise ModelRefused(
            f"llama.cpp cannot load {path}: {error}; is it a whole GGUF file?"
        ) from error


def engine_client(server: tuple[Any, str], name: str, concurrency: int) -> HttpModel:
    """A client of a running server."""
    return HttpModel(
        f"{server[0].listening_address}/v1",
        name=name,
        key=server[1],
        concurrency=concurrency,
        retry=Retry(tries=0, timeout_s=PATIENCE_S),
    )
