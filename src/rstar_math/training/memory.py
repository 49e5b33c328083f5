"""Estimates the memory that a training needs, from the headers of the model's files, and compares
it with what is free.

    weights      parameters x 4 bytes, or x 2 for a base held in bfloat16
    copies       layer weights x 2 bytes: autocast keeps a bfloat16 copy of float32 matrices
    training     trained parameters x 12 bytes: a gradient and two moments of AdamW, float32
    activations  tokens of the largest micro-batch x layers x (b S + 12 H): S is the sum of inputs
                 and outputs of a layer's matrices, H the hidden size, b 2 bytes in bfloat16, else
                 4; with gradient checkpointing tokens x (layers x 4 H + b S + 12 H); on a CPU half
                 as much again, for freed memory that is kept (`process.MemoryTrimCallback`)
    logits       one chunk (`chunked_loss`), and the gradient of a word head that is trained
    process      1 GB on a CPU for the libraries; 1.5 GB on a GPU for CUDA and its kernels

All but `weights` are calibrated on measured peaks (docs/learning.md).
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
from rstar_math.training.batches import Shape, largest_part
from rstar_math.training.chunked_loss import CHUNK_BYTES


def free_memory() -> tuple[int, str] | None:
    """Bytes that a training can have here and where they are: free memory of the GPU, or what the
    system and the control group still give. None where that is not told."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0]), "GPU memory"
    return cpu_memory()


def cpu_memory() -> tuple[int, str] | None:
    """Bytes that the system and the control group still give to this process, and which of the two
    gives less. None where that is not told."""
    return min(_cpu_limits(), default=None)


def _cpu_limits() -> Iterator[tuple[int, str]]:
    with suppress(OSError, ValueError, IndexError):
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        line = next(line for line in text.splitlines() if line.startswith("MemAvailable:"))
        yield int(line.split()[1]) * 1024, "memory"
    with suppress(OSError, ValueError, IndexError):
        place = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()[-1]
        folder = Path("/sys/fs/cgroup") / place.split(":", 2)[2].lstrip("/")
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
    """What a control group (version 2) still gives: cached files are given up for it."""
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
class Layout:
    """The size of a model."""

    parameters: int
    layers: int
    in_layers: int
    """Parameters in the decoder layers."""
    sides: int
    """Inputs and outputs of all matrices in the decoder layers, summed over the layers."""
    hidden: int
    vocabulary: int


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes that a training needs, by what they are for."""

    weights: int
    copies: int
    training: int
    activations: int
    logits: int
    process: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(asdict(self).values())


def layout_of(base: str) -> Layout:
    """The size of a model, from the headers of its GGUF or safetensors files; of a model whose
    weights are not here, from its config. Raises `InputError`."""
    where, options = resolve_checkpoint(base)
    if "gguf_file" in options:
        places = read_header(Path(where) / options["gguf_file"]).tensors
        return measured_layout({name: place.shape for name, place in places.items()})
    with suppress(InputError):
        files = WeightFiles(Path(where))
        return measured_layout({name: files.shape(name) for name in files})
    with convert_load_errors(base):
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(where))
        return measured_layout({n: tuple(p.shape) for n, p in model.named_parameters()})


def measured_layout(shapes: Mapping[str, tuple[int, ...]]) -> Layout:
    """The size of a model whose tensors have these names and shapes."""
    depth: set[int] = set()
    in_layers = sides = 0
    outside: list[tuple[int, ...]] = []
    for name, shape in shapes.items():
        found = _LAYER.search(name)
        if found is None or _OTHER_TOWERS.search(name):
            outside.append(shape)
            continue
        depth.add(int(found[1]))
        in_layers += prod(shape)
        sides += sum(shape) if len(shape) == 2 else 0
    table = max((shape for shape in outside if len(shape) == 2), key=prod, default=(0, 0))
    return Layout(
        parameters=sum(map(prod, shapes.values())),
        layers=len(depth),
        in_layers=in_layers,
        sides=sides,
        hidden=min(table),
        vocabulary=max(table),
    )


def estimate(
    layout: Layout,
    settings: Any,
    micro_batch: tuple[int, int],
    *,
    half: bool,
    gpu: bool,
    scorer: bool = False,
) -> MemoryNeed:
    """What a training needs whose largest micro-batch has so many rows of so many tokens; `half`
    says that the base is held in bfloat16, `scorer` that it has a value head and no word head."""
    rows, length = micro_batch
    tokens, width = rows * length, 2 if settings.bf16 else 4
    head = layout.vocabulary * layout.hidden
    matrices = getattr(settings, "matrices_only", False)
    adapter = settings.lora_rank * layout.sides
    trained = adapter or (layout.in_layers if matrices else layout.parameters)
    stream = 12 * layout.hidden
    layer = width * layout.sides / max(1, layout.layers) + stream
    if settings.gradient_checkpointing:
        kept = layout.layers * 4 * layout.hidden + layer
    else:
        kept = layout.layers * layer
    logits = 0 if scorer else 3 * CHUNK_BYTES
    if not scorer and not settings.lora_rank:
        logits += head * (width + (0 if matrices else 4))
    masks = rows * length**2 * (1 + width) if scorer else 0
    activations = (tokens * kept + masks) * (1.0 if gpu else 1.5)
    return MemoryNeed(
        weights=layout.parameters * (2 if half else 4),
        copies=0 if half or not settings.bf16 else 2 * layout.in_layers,
        training=12 * trained,
        activations=int(activations),
        logits=logits,
        process=int((1.5 if gpu else 1.0) * GB),
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """A training before it begins: its model, its largest micro-batch, and the memory for it."""

    layout: Layout
    dtype: str
    micro_batch: tuple[int, int]
    """Rows, and tokens of the longest."""
    need: MemoryNeed
    free: tuple[int, str] | None

    def report(self) -> dict[str, Any]:
        """The plan as one JSON object; sizes in bytes."""
        return {
            "parameters": self.layout.parameters,
            "base_dtype": self.dtype,
            "micro_batch": {"rows": self.micro_batch[0], "tokens": self.micro_batch[1]},
            "need": asdict(self.need) | {"total": self.need.total},
            "free": None if self.free is None else self.free[0],
            "fits": self.free is None or self.need.total <= self.free[0],
        }


def plan(
    base: str, settings: Any, shapes: Sequence[Shape], *, dtype: Any, scorer: bool = False
) -> Plan:
    """What a training on examples of these shapes, in their order, needs and can have."""
    import torch

    layout = layout_of(base)
    largest = largest_part(shapes, settings.limits(len(shapes)), settings.step_size(len(shapes)))
    half = dtype == torch.bfloat16
    gpu = torch.cuda.is_available()
    need = estimate(layout, settings, largest, half=half, gpu=gpu, scorer=scorer)
    return Plan(layout, "bfloat16" if half else "float32", largest, need, free_memory())


def require_memory(made: Plan, base: str, settings: Any) -> None:
    """Nothing, where a planned training fits into memory; else raises `TrainingError`, which says
    what it needs, what there is and what to change. Trainings of several processes on GPUs are not
    checked, since they may share the model between them."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if made.free is None or (processes > 1 and made.free[1] == "GPU memory"):
        return
    there, where = made.free
    if processes * made.need.total <= there:
        return
    raise TrainingError(
        f"Training {base} needs about {processes * made.need.total / GB:.1f} GB and there are "
        f"{there / GB:.1f} GB of free {where}; {_advice(settings, made)}."
    )


def _advice(settings: Any, made: Plan) -> str:
    """What to change, the first to try first."""
    rows, length = made.micro_batch
    ways = []
    if not settings.lora_rank:
        ways.append("train an adapter (--set lora_rank=16)")
    if rows * length > 512 and rows > 1:
        tokens = max(256, min(rows * length // 2, settings.max_tokens))
        ways.append(f"compute less at once (--set micro_batch_tokens={tokens})")
    if not settings.gradient_checkpointing:
        ways.append("keep fewer activations (--set gradient_checkpointing=true)")
    if length > 512:
        ways.append(f"leave out long rows (--set max_tokens={length // 2})")
    return ", ".join([*ways, "or begin with a smaller base"])
