"""Code shared by all trainings: process memory, dtypes, checkpoints, resuming and saving."""

import ctypes
import gc
import json
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from importlib import import_module
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
from rstar_math.models.loading import is_low_precision
from rstar_math.training.memory import cpu_memory
from rstar_math.training.progress import DIVERGED_FILE, require_not_diverged
from rstar_math.training.tracking import tracked_training

_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


def require_training() -> None:
    """Raise `MissingDependencyError` unless all packages for training are installed."""
    for name in _PACKAGES:
        try:
            version(name)
        except Exception as error:
            raise MissingDependencyError(
                f"Training needs the package {name}; type: pip install 'rstar-math[train]'."
            ) from error
    with redirect_stdout(sys.stderr):  # it prints if WANDB_MODE is set, and stdout may be for JSON
        import_module("transformers.integrations.integration_utils")


def set_malloc_limits() -> None:
    """Make glibc keep freed memory instead of returning it to the system.

    A training step frees and reallocates gigabytes. Mapping the pages again took two thirds of the
    time on a virtual machine. No effect with another C library.
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(top_pad, 256 * 2**20)


def trim_malloc() -> None:
    """Return freed memory that the process kept (`set_malloc_limits`) to the system. No effect with
    another C library than glibc."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def stop_openmp_threads() -> None:
    """Stop the idle OpenMP threads of this process. OpenMP restarts them when it needs them.

    Idle threads made the embedded model a quarter slower after a training. Together with its own
    threads they outnumber the cores, and then no thread waits actively. No effect if GNU's OpenMP
    is not loaded.
    """
    soft = 1
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD).omp_pause_resource_all(soft)


def resident_bytes() -> int:
    """Resident memory of this process, in bytes; 0 if unknown."""
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0


class MemoryTrimCallback:
    """Limits the memory that `set_malloc_limits` keeps. Call it after each micro-batch.

    With batches of many shapes, freed memory fragments and does not fit later batches: a training
    of 135M weights grew to 16 GB. Freed memory is returned to the system when little memory is
    available, or when the process exceeds 1.5 times its reference size. The reference is measured
    after the first micro-batch, and again after the micro-batch that follows each return.
    """

    def __init__(self) -> None:
        self._limit = 0
        self._trimmed = True

    def __call__(self) -> None:
        """Return freed memory to the system if too much is kept."""
        resident = resident_bytes()
        if self._trimmed:
            self._limit, self._trimmed = max(self._limit, resident + resident // 2), False
        elif resident > self._limit or available_bytes() < resident // 8:
            trim_malloc()
            self._trimmed = True


def available_bytes() -> int:
    """Memory that this process can still allocate on the CPU, in bytes; 2**63 if unknown."""
    memory = cpu_memory()
    return memory[0] if memory else 2**63


def on_gpu() -> bool:
    """Whether trainings run on a GPU."""
    import torch

    return bool(torch.cuda.is_available())


def base_dtype(base: str, settings: Any) -> Any:
    """The torch dtype of the base weights: float32 if all weights are trained, with an adapter as
    `settings.base_dtype` says."""
    import torch

    if not settings.lora_rank or settings.base_dtype == "float32":
        return torch.float32
    if settings.base_dtype == "bfloat16":
        return torch.bfloat16
    use_bfloat16 = settings.bf16 and has_bfloat16() and is_low_precision(base)
    return torch.bfloat16 if use_bfloat16 else torch.float32


def has_bfloat16() -> bool:
    """Whether the GPU, or the CPU without a GPU, supports matrix products in bfloat16."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


def trainer_arguments(
    settings: Any, work: Path, *, examples: int, whole_steps: bool
) -> dict[str, Any]:
    """Arguments common to all TRL trainers.

    `examples` counts all epochs, whose order is fixed beforehand (`length_bucketed_order`). With
    `whole_steps` the trainer receives all examples of a step as one batch.
    """
    micro = settings.examples_per_micro_batch(examples)
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
    """A block that hides FutureWarnings, and PEFT's warning that a single-file base has no config
    file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", "Could not find a config file")
        yield


@contextmanager
def training_folder(out: Path, inputs: Mapping[str, object]) -> Iterator[Path]:
    """The working folder next to `out` that holds a training's checkpoints until it is finished.

    It is locked by this process during the block; if several processes train one model, by the
    first of them.

    Raises `InputError` if `out` exists, or the folder has a checkpoint of a training with other
    inputs. Raises `StoreError` if another process uses the folder. Raises `TrainingError` if this
    training diverged before; one that diverged with other inputs is deleted.
    """
    if out.exists():
        raise InputError(f"{out} already exists; remove it or give another --out.")
    work = out.with_name(f"{out.name}.training")
    first = os.environ.get("RANK", "0") == "0"
    with convert_io_errors(work):
        work.mkdir(parents=True, exist_ok=True)
        lock = os.open(work / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if first:
            lock_file(
                lock, f"Another process is training {out}; wait for it or give another --out."
            )
        _require_same_inputs(work, inputs)
        yield work
    finally:
        os.close(lock)


def _require_same_inputs(work: Path, inputs: Mapping[str, object]) -> None:
    """Record the inputs of a training. Raise `InputError` if the folder has a checkpoint of a
    training with other inputs."""
    file = work / "inputs.json"
    with convert_io_errors(work):
        same = file.is_file() and json.loads(file.read_text(encoding="utf-8")) == json.loads(
            json.dumps(inputs)
        )
        if same:
            require_not_diverged(work)
        elif (work / DIVERGED_FILE).is_file():
            for folder in work.glob("checkpoint-*"):
                shutil.rmtree(folder, ignore_errors=True)
            (work / DIVERGED_FILE).unlink(missing_ok=True)
        if file.is_file() and any(work.glob("checkpoint-*")):
            if not same:
                raise InputError(
                    f"{work} holds an unfinished training with other data or settings; remove it, "
                    "or use the same data and settings to resume."
                )
        else:
            file.write_text(json.dumps(inputs, indent=1), encoding="utf-8")


def latest_checkpoint(work: Path) -> str | None:
    """The latest complete checkpoint of a training, or None. Incomplete ones are deleted."""
    folders = sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    latest = None
    for folder in folders:
        if is_complete(folder):
            latest = str(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return latest


def completion_callback() -> Any:
    """A trainer callback that marks each checkpoint as complete after it is written."""
    from transformers import TrainerCallback

    class CompletionCallback(TrainerCallback):  # type: ignore[misc,unused-ignore]
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}", {})

    return CompletionCallback()


def run_trainer(trainer: Any, work: Path) -> list[dict[str, float]]:
    """Train to the end, from the latest complete checkpoint if there is one.

    Returns `step` and `loss` of every step. Raises `StoreError` if the disk fails and
    `TrainingError` if the training diverges. Saved checkpoints remain, and a later call resumes
    from them.
    """
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    with suppress_warnings(), convert_io_errors(work), tracked_training(trainer):
        trainer.train(resume_from_checkpoint=latest_checkpoint(work))
    history = trainer.state.log_history
    return [{"step": e["step"], "loss": e["loss"]} for e in history if "loss" in e]


def save_trained_model(trainer: Any, out: Path, work: Path, notes: Mapping[str, object]) -> None:
    """Write the trained model to `out`, complete or not at all, and delete its checkpoints.

    A LoRA adapter is merged into the base weights, and also saved separately in `adapter/`. If
    several processes train, the first writes.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    state = trainer.accelerator.get_state_dict(trainer.model)
    if trainer.accelerator.is_main_process:
        versions = {name: version(name) for name in _PACKAGES}
        versions["rstar-math"] = __version__
        with suppress_warnings(), save_checkpoint(out, {**notes, "versions": versions}) as folder:
            if hasattr(model, "merge_and_unload"):
                model.save_pretrained(folder / "adapter", state_dict=state)
                del state
                trim_malloc()
                merge_adapter(model).save_pretrained(folder)
            else:
                model.save_pretrained(folder, state_dict=state)
            trainer.processing_class.save_pretrained(folder)
        shutil.rmtree(work, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()


def merge_adapter(model: Any) -> Any:
    """The base model of a PEFT model, with the adapter added to its weights.

    Each matrix is summed in float32 and rounded once to the type of the base. Matrices are merged
    one at a time, so no second copy of the model is in memory.
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
