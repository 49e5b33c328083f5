"""What all trainings share: memory, number formats, checkpoints, resuming, the finished folder."""

import ctypes
import gc
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rstar_math import __version__
from rstar_math.checkpoints.folders import (
    convert_io_errors,
    is_complete,
    mark_complete,
    save_checkpoint,
)
from rstar_math.errors import InputError, MissingDependencyError
from rstar_math.files import lock_file
from rstar_math.models.loading import is_stored_small
from rstar_math.training.memory import cpu_memory
from rstar_math.training.progress import DIVERGED, refuse_diverged

_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


def require_training() -> None:
    """Nothing, where training's packages are installed; else raises `MissingDependencyError`."""
    for name in _PACKAGES:
        try:
            version(name)
        except Exception as error:
            raise MissingDependencyError(
                f"Training needs the package {name}; type: pip install 'rstar-math[train]'."
            ) from error


def set_malloc_limits() -> None:
    """Let the C library keep memory that is freed instead of giving it back to the system.

    A step of training frees and asks again for gigabytes; taking them from the system anew page by
    page cost two thirds of the time on a virtual machine. Nothing happens where the C library is
    not glibc.
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(top_pad, 256 * 2**20)


def trim_malloc() -> None:
    """Return what a finished training kept (`set_malloc_limits`) to the system, for what comes next
    in this process. Nothing happens where the C library is not glibc."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def stop_openmp_threads() -> None:
    """End the threads that OpenMP keeps for the next parallel work of the calling thread; they come
    back when it has some. Kept, they made the embedded model a quarter slower after a training:
    PyTorch's and its own are counted together, and as they are more than the cores, none waits
    actively for the others. Nothing happens where OpenMP's library is not GNU's, or not loaded."""
    soft = 1
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD).omp_pause_resource_all(soft)


def peak_memory_bytes() -> int:
    """Bytes of memory that this process holds; 0 where the system does not tell."""
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0


class MemoryTrimCallback:
    """Bounds what `set_malloc_limits` keeps; call it after each micro-batch.

    Batches of many shapes leave the kept memory in pieces that fit none of the next: training 135M
    weights grew to 16 GB. When the process holds half as much again as after the last return (the
    first comes after the first micro-batch), or the system has little left, the memory goes back to
    the system, and the next micro-batch takes anew what it needs.
    """

    def __init__(self) -> None:
        self._most = 0
        self._trimmed = True

    def __call__(self) -> None:
        """Return memory if too much is kept."""
        held = peak_memory_bytes()
        if self._trimmed:
            self._most, self._trimmed = max(self._most, held + held // 2), False
        elif held > self._most or available() < held // 8:
            trim_malloc()
            self._trimmed = True


def available() -> int:
    """Bytes that the system and the control group still give to this process."""
    found = cpu_memory()
    return found[0] if found else 2**63


def on_gpu() -> bool:
    """Whether training goes to a GPU."""
    import torch

    return bool(torch.cuda.is_available())


def base_dtype(base: str, settings: Any) -> Any:
    """The type in which a training holds its base: float32 where all weights are trained; with an
    adapter what `settings.base_dtype` says."""
    import torch

    if not settings.lora_rank or settings.base_dtype == "float32":
        return torch.float32
    if settings.base_dtype == "bfloat16":
        return torch.bfloat16
    small = settings.bf16 and has_bfloat16() and is_stored_small(base)
    return torch.bfloat16 if small else torch.float32


def has_bfloat16() -> bool:
    """Whether the GPU, or without one the CPU, multiplies matrices of bfloat16."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


def arguments(settings: Any, work: Path, *, examples: int, whole_steps: bool) -> dict[str, Any]:
    """The arguments that all of TRL's trainers share. The order of examples is settled before
    (`training.batches`), epochs included. With `whole_steps` the trainer gets all examples of a
    step as one batch."""
    micro = settings.at_once(examples)
    step = settings.step_size(examples, int(os.environ.get("WORLD_SIZE", "1")))
    return {
        "output_dir": str(work),
        "per_device_train_batch_size": step if whole_steps else micro,
        "gradient_accumulation_steps": 1 if whole_steps else step // micro,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "linear",
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "num_train_epochs": 1,
        "max_steps": settings.max_steps or -1,
        "train_sampling_strategy": "sequential",
        "save_strategy": "steps",
        "save_steps": settings.save_steps,
        "save_total_limit": 2,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": settings.seed,
        "bf16": settings.bf16,
        "use_cpu": not on_gpu(),
        "optim": "adamw_torch_fused",
        "dataloader_pin_memory": False if whole_steps else on_gpu(),
        "remove_unused_columns": False,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    }


@contextmanager
def suppress_warnings() -> Iterator[None]:
    """A block in which libraries keep to themselves what they will change in later versions, and
    that a base of one file has no configuration beside it (peft)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", "Could not find a config file")
        yield


@contextmanager
def training_folder(out: Path, inputs: Mapping[str, object]) -> Iterator[Path]:
    """The folder that a training keeps its checkpoints in until it is done, next to `out`, held by
    this process in the block (of several that train one model together, by the first).

    Raises `InputError` where `out` is there already, or a training with other inputs was begun and
    came to a checkpoint, `StoreError` where another process is at work there, and `TrainingError`
    where the same training diverged. One that diverged makes room for others.
    """
    if out.exists():
        raise InputError(f"{out} is there already; name another --out or remove it.")
    work = out.with_name(f"{out.name}.training")
    first = os.environ.get("RANK", "0") == "0"
    with convert_io_errors(work):
        work.mkdir(parents=True, exist_ok=True)
        lock = os.open(work / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if first:
            lock_file(
                lock, f"Another process is training {out}; wait for it, or name another --out."
            )
        _same_training(work, inputs)
        yield work
    finally:
        os.close(lock)


def _same_training(work: Path, inputs: Mapping[str, object]) -> None:
    """Write down what a training is made from; raise `InputError` where one from something else
    came to a checkpoint."""
    told = work / "inputs.json"
    with convert_io_errors(work):
        same = told.is_file() and json.loads(told.read_text(encoding="utf-8")) == json.loads(
            json.dumps(inputs)
        )
        if same:
            refuse_diverged(work)
        elif (work / DIVERGED).is_file():
            for folder in work.glob("checkpoint-*"):
                shutil.rmtree(folder, ignore_errors=True)
            (work / DIVERGED).unlink(missing_ok=True)
        if told.is_file() and any(work.glob("checkpoint-*")):
            if not same:
                raise InputError(
                    f"{work} holds a training that was begun with other data or settings; remove "
                    "it, or give those again to go on with it."
                )
        else:
            told.write_text(json.dumps(inputs, indent=1), encoding="utf-8")


def latest_checkpoint(work: Path) -> str | None:
    """The newest whole checkpoint of a training; half-written ones are removed."""
    found = sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    whole = None
    for folder in found:
        if is_complete(folder):
            whole = str(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return whole


def CompletionCallback() -> Any:
    """A callback that declares each checkpoint whole once all of it is written."""
    from transformers import TrainerCallback

    class Marking(TrainerCallback):  # type: ignore[misc,unused-ignore]
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}", {})

    return Marking()


def run(trainer: Any, work: Path) -> list[dict[str, float]]:
    """Train to the end, from the last whole checkpoint where there is one; step and loss of every
    step. Raises `StoreError` where the disk fails, and `TrainingError` where the training diverges;
    what was saved before is gone on from."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    with suppress_warnings(), convert_io_errors(work):
        trainer.train(resume_from_checkpoint=latest_checkpoint(work))
    history = trainer.state.log_history
    return [{"step": e["step"], "loss": e["loss"]} for e in history if "loss" in e]


def finish(trainer: Any, out: Path, work: Path, notes: Mapping[str, object]) -> None:
    """Write the trained model to its place, whole or not at all, and remove the checkpoints.

    Of a model with a LoRA adapter the merged weights are written, and the adapter beside them in
    `adapter/`. Of several processes the first writes.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    state = trainer.accelerator.get_state_dict(trainer.model)
    if trainer.accelerator.is_main_process:
        versions = {name: version(name) for name in _PACKAGES}
        versions["rstar-math"] = __version__
        with suppress_warnings(), save_checkpoint(out, {**notes, "versions": versions}) as part:
            if hasattr(model, "merge_and_unload"):
                model.save_pretrained(part / "adapter", state_dict=state)
                del state
                trim_malloc()
                merged(model).save_pretrained(part)
            else:
                model.save_pretrained(part, state_dict=state)
            trainer.processing_class.save_pretrained(part)
        shutil.rmtree(work, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()


def merged(model: Any) -> Any:
    """The base model of a PEFT model, with the adapter added to its weights.

    Each matrix is summed in float32 and rounded once to the type of the base, one at a time, so
    that no second copy of the model is held.
    """
    import torch
    from peft.tuners.lora import LoraLayer

    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, LoraLayer):
                weight = layer.get_base_layer().weight
                delta = sum(layer.get_delta_weight(name) for name in layer.active_adapters)
                weight.copy_(weight.float() + delta)
    return model.unload()
