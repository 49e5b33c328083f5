"""Estimates the memory that a training needs, from the file headers of its base model, and compares
it with the free memory.

    weights      parameters x 4 bytes, or x 2 for a base in bfloat16
    copies       layer parameters x 2 bytes: autocast caches a bfloat16 copy of float32 matrices
    training     trained parameters x 12 bytes: float32 gradient and two moments of AdamW
    activations  T x layers x (b S + 12 H) bytes; with gradient checkpointing
                 T x (layers x 4 H + b S + 12 H); on a CPU 1.5 times as much, for freed memory that
                 the process keeps (`trainer.MemoryTrimCallback`)
    logits       one chunk (`chunked_loss`), and the gradient of the LM head if it is trained
    process      1 GB on a CPU for libraries; 1.5 GB on a GPU for CUDA and its kernels

    T            tokens of the largest micro-batch
    S            sum of the inputs and outputs of one layer's matrices
    H            hidden size
    b            2 bytes with `bf16`, else 4

All parts but `weights` are calibrated on measured peaks (docs/learning.md).
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from rstar_math.checkpoints.tensors import WeightFiles, read_header
from rstar_math.errors import InputError, TrainingError
from rstar_math.models.loading import convert_load_errors, resolve_checkpoint
from rstar_math.training.batches import ExampleShape, largest_micro_batch
from rstar_math.training.chunked_loss import CHUNK_BYTES


def free_memory() -> tuple[int, str] | None:
    """Bytes available to a training, and of what kind of memory: that of the GPU, without one that
    of the CPU. None if unknown."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0]), "GPU memory"
    return cpu_memory()


def cpu_memory() -> tuple[int, str] | None:
    """Bytes of CPU memory available to this process, and what limits it: the system or its control
    group. None if unknown."""
    return min(_cpu_limits(), default=None)


def _cpu_limits() -> Iterator[tuple[int, str]]:
    """Available bytes by each limit that can be read: the system, and control groups of version 2
    and 1."""
    with suppress(OSError, ValueError, IndexError):
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        line = next(line for line in text.splitlines() if line.startswith("MemAvailable:"))
        yield int(line.split()[1]) * 1024, "memory"
    with suppress(OSError, ValueError, IndexError):
        entry = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()[-1]
        folder = Path("/sys/fs/cgroup") / entry.split(":", 2)[2].lstrip("/")
        for group in (folder, *folder.parents):
            if group == Path("/sys/fs"):
                break
            yield from _group_limit(group)
    with suppress(OSError, ValueError):
        folder = Path("/sys/fs/cgroup/memory")
        limit = int((folder / "memory.limit_in_bytes").read_text(encoding="ascii"))
        used = int((folder / "memory.usage_in_bytes").read_text(encoding="ascii"))
        yield limit - used, "memory of the control group"


def _group_limit(group: Path) -> Iterator[tuple[int, str]]:
    """Available bytes in a control group of version 2. Inactive file cache counts as available."""
    with suppress(OSError, ValueError, KeyError):
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        cached = int(dict(line.split() for line in lines)["inactive_file"])
        yield limit - used + cached, "memory of the control group"


GB = 1e9
_LAYER = re.compile(r"(?:^|\.)(?:blk|layers|h|blocks|layer)\.(\d+)\.")
_OTHER_TOWERS = re.compile(r"(?:^|\.)(?:v|mm|vision\w*|visual|audio\w*|multi_modal\w*)\.")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a model that its memory depends on."""

    parameters: int
    layers: int
    layer_parameters: int
    """Parameters in all decoder layers."""
    matrix_sides: int
    """Inputs plus outputs of every matrix in the decoder layers, summed over all layers."""
    hidden: int
    vocabulary: int


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes that a training needs, by purpose (see the top of this module)."""

    weights: int
    copies: int
    training: int
    activations: int
    logits: int
    process: int

    @property
    def total(self) -> int:
        """The sum of all parts, in bytes."""
        return sum(asdict(self).values())


def read_model_shape(base: str) -> ModelShape:
    """The shape of a model, from the headers of its GGUF or safetensors files.

    If the weights are not on disk, it comes from the model's config. Raises `InputError`.
    """
    path, options = resolve_checkpoint(base)
    if "gguf_file" in options:
        tensors = read_header(Path(path) / options["gguf_file"]).tensors
        return shape_from_tensors({name: tensor.shape for name, tensor in tensors.items()})
    with suppress(InputError):
        files = WeightFiles(Path(path))
        return shape_from_tensors({name: files.shape(name) for name in files})
    with convert_load_errors(base):
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        with torch.device("meta"):
            config = AutoConfig.from_pretrained(path, **options)
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        return shape_from_tensors({n: tuple(p.shape) for n, p in model.named_parameters()})


def shape_from_tensors(tensors: Mapping[str, tuple[int, ...]]) -> ModelShape:
    """The shape of a model, from the names and shapes of its tensors."""
    layers: set[int] = set()
    layer_parameters = matrix_sides = 0
    outside: list[tuple[int, ...]] = []
    for name, shape in tensors.items():
        match = _LAYER.search(name)
        if match is None or _OTHER_TOWERS.search(name):
            outside.append(shape)
            continue
        layers.add(int(match[1]))
        layer_parameters += prod(shape)
        matrix_sides += sum(shape) if len(shape) == 2 else 0
    embedding = max((shape for shape in outside if len(shape) == 2), key=prod, default=(0, 0))
    return ModelShape(
        parameters=sum(map(prod, tensors.values())),
        layers=len(layers),
        layer_parameters=layer_parameters,
        matrix_sides=matrix_sides,
        hidden=min(embedding),
        vocabulary=max(embedding),
    )


def estimate_memory(
    shape: ModelShape,
    settings: Any,
    micro_batch: tuple[int, int],
    *,
    bfloat16_base: bool,
    gpu: bool,
    scorer: bool = False,
) -> MemoryNeed:
    """The memory that a training needs.

    `micro_batch` is the size of the largest micro-batch: rows, and tokens per row. A `scorer` has a
    value head and no LM head.
    """
    rows, length = micro_batch
    tokens, width = rows * length, 2 if settings.bf16 else 4
    lm_head = shape.vocabulary * shape.hidden
    matrices_only = getattr(settings, "matrices_only", False)
    adapter = settings.lora_rank * shape.matrix_sides
    trained = adapter or (shape.layer_parameters if matrices_only else shape.parameters)
    layer = width * shape.matrix_sides / max(1, shape.layers) + 12 * shape.hidden
    if settings.gradient_checkpointing:
        bytes_per_token = shape.layers * 4 * shape.hidden + layer
    else:
        bytes_per_token = shape.layers * layer
    logits = 0 if scorer else 3 * CHUNK_BYTES
    if not scorer and not settings.lora_rank:
        logits += lm_head * (width + (0 if matrices_only else 4))
    masks = rows * length**2 * (1 + width) if scorer else 0
    activations = (tokens * bytes_per_token + masks) * (1.0 if gpu else 1.5)
    return MemoryNeed(
        weights=shape.parameters * (2 if bfloat16_base else 4),
        copies=0 if bfloat16_base or not settings.bf16 else 2 * shape.layer_parameters,
        training=12 * trained,
        activations=int(activations),
        logits=logits,
        process=int((1.5 if gpu else 1.0) * GB),
    )


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The estimated memory of a training, and the free memory."""

    shape: ModelShape
    dtype: str
    """Type of the base weights."""
    micro_batch: tuple[int, int]
    """Size of the largest micro-batch: rows, and tokens of the longest row."""
    need: MemoryNeed
    free: tuple[int, str] | None
    """Free bytes and the kind of memory; None if unknown."""

    def report(self) -> dict[str, Any]:
        """The plan as a JSON object; sizes in bytes."""
        return {
            "parameters": self.shape.parameters,
            "base_dtype": self.dtype,
            "micro_batch": {"rows": self.micro_batch[0], "tokens": self.micro_batch[1]},
            "need": asdict(self.need) | {"total": self.need.total},
            "free": None if self.free is None else self.free[0],
            "fits": self.free is None or self.need.total <= self.free[0],
        }


def plan_memory(
    base: str, settings: Any, examples: Sequence[ExampleShape], *, dtype: Any, scorer: bool = False
) -> MemoryPlan:
    """The memory plan of a training on examples of these shapes, in training order. Raises
    `InputError`."""
    import torch

    shape = read_model_shape(base)
    step = settings.step_size(len(examples))
    largest = largest_micro_batch(examples, settings.limits(len(examples)), step)
    bfloat16 = dtype == torch.bfloat16
    gpu = torch.cuda.is_available()
    need = estimate_memory(shape, settings, largest, bfloat16_base=bfloat16, gpu=gpu, scorer=scorer)
    return MemoryPlan(shape, "bfloat16" if bfloat16 else "float32", largest, need, free_memory())


def require_memory(memory_plan: MemoryPlan, base: str, settings: Any) -> None:
    """Raise `TrainingError` if a planned training does not fit into memory.

    Trainings with several processes on GPUs are not checked: they may share the model.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if memory_plan.free is None or (processes > 1 and memory_plan.free[1] == "GPU memory"):
        return
    free, kind = memory_plan.free
    need = processes * memory_plan.need.total
    if need <= free:
        return
    raise TrainingError(
        f"Training {base} needs about {need / GB:.1f} GB, but only {free / GB:.1f} GB of {kind} "
        f"is free; {_advice(settings, memory_plan)}."
    )


def _advice(settings: Any, memory_plan: MemoryPlan) -> str:
    """Settings that reduce memory, most effective first."""
    rows, length = memory_plan.micro_batch
    options = []
    if not settings.lora_rank:
        options.append("train an adapter (--set lora_rank=16)")
    if rows * length > 512 and rows > 1:
        tokens = max(256, min(rows * length // 2, settings.max_tokens))
        options.append(f"use smaller micro-batches (--set micro_batch_tokens={tokens})")
    if not settings.gradient_checkpointing:
        options.append("store fewer activations (--set gradient_checkpointing=true)")
    if length > 512:
        options.append(f"leave out long rows (--set max_tokens={length // 2})")
    return ", ".join([*options, "or choose a smaller base"])
