"""Loads models, tokenizers and value heads with transformers: folders, .gguf files and names."""

import fcntl
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from typing import Any, Literal

from rstar_math.checkpoints.folders import (
    bundled_adapter,
    bundled_weights,
    cache_dir,
    convert_io_errors,
    is_complete,
    no_progress_bars,
    read_json_object,
    read_notes,
    require_torch,
    save_checkpoint,
)
from rstar_math.checkpoints.tensors import GGML_F32, WeightFiles, read_header
from rstar_math.checkpoints.value_heads import PROBE_FILE
from rstar_math.config.sections import LOCAL, TRAINED
from rstar_math.errors import InputError, RstarError
from rstar_math.files import open_own
from rstar_math.models.downloads import resolve_model
from rstar_math.models.names import parse_base


def load_policy(base: str, *, dtype: Any = None) -> tuple[Any, Any]:
    """Return a causal language model and its tokenizer. The default `dtype` is float32.

    `base` is "local" (the embedded SmolLM2-135M), "trained" (the same with this package's adapter),
    a catalogue name, a .gguf file, a checkpoint folder, or a hub repository (ORG/NAME, "hf:"
    optional). Raises `InputError`, `MissingDependencyError`, and the errors of
    `downloads.resolve_model`.
    """
    require_torch()
    import torch
    from transformers import AutoModelForCausalLM

    source, options = resolve_checkpoint(base)
    with convert_load_errors(base):
        _require_causal_lm(base, source, options)
        model, report = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype or torch.float32, output_loading_info=True, **options
        )
        if report["missing_keys"]:
            raise InputError(
                f"{base} lacks {min(map(str, report['missing_keys']))}, so it is not a complete "
                "language model; give a checkpoint with an LM head."
            )
        clear_quantization(model)
        tokenizer = load_tokenizer(base)
    check_tokenizer(base, model, tokenizer)
    return model, tokenizer


def is_low_precision(base: str) -> bool:
    """Return whether a model is stored in 16 bits or quantized.

    Reads only the headers of the model's files, or the config if the weights are not on disk.
    """
    import torch
    from transformers import AutoConfig

    source, options = resolve_checkpoint(base)
    if "gguf_file" in options:
        weights_by_type = Counter[int]()
        for tensor in read_header(Path(source) / options["gguf_file"]).tensors.values():
            weights_by_type[tensor.ggml_type] += prod(tensor.shape)
        return weights_by_type[GGML_F32] < weights_by_type.total() / 2
    with suppress(InputError):
        return WeightFiles(Path(source)).bytes_per_weight() < 3
    with convert_load_errors(base):
        return AutoConfig.from_pretrained(source, **options).dtype in (
            torch.bfloat16,
            torch.float16,
        )


def _require_causal_lm(base: str, source: str, options: Mapping[str, Any]) -> None:
    """Raise `InputError` unless a checkpoint is a causal language model.

    transformers would load other checkpoints too, with a randomly initialised LM head.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source, **options)
    for name in config.architectures or ():
        if name.endswith("ForSequenceClassification"):
            raise InputError(
                f"{base} is a scorer ({name}), not a policy; give the policy that it was trained "
                "from, or another language model."
            )
        if name.endswith(("ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering")):
            raise InputError(
                f"{base} is not a causal language model ({name}); give a model that generates text."
            )


def check_tokenizer(base: str, model: Any, tokenizer: Any) -> None:
    """Raise `InputError` unless a tokenizer fits the model and has a padding token."""
    embeddings = model.get_input_embeddings().num_embeddings
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= embeddings:
        raise InputError(
            f"The tokenizer in {base} has {largest + 1} tokens but the model has {embeddings} "
            "embedding rows; copy the tokenizer that belongs to the model."
        )
    if tokenizer.pad_token is None:
        raise InputError(
            f"The tokenizer in {base} has neither a padding token nor an end token; set eos_token "
            "in its tokenizer_config.json."
        )


def load_tokenizer(base: str) -> Any:
    """Return the tokenizer of a model, with a padding token. It splits text as llama.cpp does."""
    from transformers import AutoTokenizer

    source, options = resolve_checkpoint(base)
    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    tokenizer("What is 1 + 1?")  # settings of the wrong kind show when text is split
    if "gguf_file" in options:
        _split_as_llama_cpp(tokenizer, Path(source) / options["gguf_file"])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _split_as_llama_cpp(tokenizer: Any, file: Path) -> None:
    """Make a tokenizer read from a GGUF file split digits one by one if the file requires it.

    transformers ignores the file's pre-tokenizer name and would join spaces before a number
    differently.
    """
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    if read_header(file).metadata.get("tokenizer.ggml.pre") == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
            [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        )


def resolve_checkpoint(base: str) -> tuple[str, dict[str, Any]]:
    """Return the arguments of `from_pretrained` for a model: a folder or path, and options.

    Downloads a catalogue or hub model that is not on disk. Code from a repository is never run.
    """
    options: dict[str, Any] = {"trust_remote_code": False}
    name = parse_base(base)
    if name.kind == "packaged" and name.text == TRAINED:
        return str(bundled_checkpoint()), options
    path = bundled_weights() if name.text == LOCAL else Path(name.text).expanduser()
    if name.kind not in ("packaged", "file", "folder"):
        path = resolve_model(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputError(f"There is no model file {path}; give a .gguf file or a checkpoint.")
        return str(path.parent), {**options, "gguf_file": path.name}
    if not path.is_dir():
        raise InputError(
            f"There is no checkpoint {path}; give a folder that rstar train wrote, or a hub "
            "repository as hf:ORG/NAME."
        )
    read_notes(path)
    return str(path), options


def bundled_checkpoint(kind: Literal["policy", "ppm"] = "policy") -> Path:
    """Return the embedded model merged with this package's adapter, a float32 checkpoint (540 MB).

    The folder is written to the cache at first use. Raises `StoreError` if it cannot be written.
    """
    with bundled_adapter(kind) as (adapter, digest):
        folder = cache_dir() / f"SmolLM2-135M-rstar-{kind}.{digest}"
        if is_complete(folder):
            return folder
        with convert_io_errors(folder), _lock(folder):
            if not is_complete(folder):
                shutil.rmtree(folder, ignore_errors=True)
                model, tokenizer = _load_with_adapter(kind, adapter)
                notes = {"kind": kind, "base": LOCAL, "adapter": digest}
                with save_checkpoint(folder, notes) as part:
                    model.save_pretrained(part)
                    tokenizer.save_pretrained(part)
    return folder


def _load_with_adapter(kind: str, adapter: Path) -> tuple[Any, Any]:
    """Load the embedded model and merge an adapter into its weights.

    For a preference model this includes the value head.
    """
    from rstar_math.checkpoints.gguf_adapters import apply_adapter

    if kind == "policy":
        model, tokenizer = load_policy(LOCAL)
    else:
        model, tokenizer = load_value_model(LOCAL, fresh=True)
    apply_adapter(adapter, model)
    return model, tokenizer


@contextmanager
def _lock(target: Path) -> Iterator[None]:
    """Hold an exclusive lock for `target`; waits for other processes. Raises `OSError`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_own(target.with_name(f"{target.name}.lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def clear_quantization(model: Any) -> None:
    """Mark a model read from a GGUF file as unquantized, so that it can be trained and saved.

    Its weights were dequantized on loading.
    """
    for config in (model.config, *(m.config for m in model.modules() if hasattr(m, "config"))):
        for name in ("quantization_config", "_is_quantized"):
            if hasattr(config, name):
                delattr(config, name)
    model.hf_quantizer = None
    model.is_quantized = False


@contextmanager
def convert_load_errors(base: str) -> Iterator[None]:
    """Convert errors while reading a model's files to `InputError`.

    Hides the progress bars and reports of transformers.
    """
    from transformers import modeling_gguf_pytorch_utils
    from transformers.utils import logging

    gguf_module: Any = modeling_gguf_pytorch_utils
    gguf_module.tqdm = logging.tqdm  # transformers' own switch then hides this bar too
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with no_progress_bars():
            yield
    except (RstarError, MemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise InputError(
            f"{base} cannot be loaded as a model ({type(error).__name__}: {text}); give a complete "
            "checkpoint that transformers can load."
        ) from error
    finally:
        logging.set_verbosity(before)


def value_from_score(raw: Any) -> Any:
    """Return values in [-1, 1] for raw scores, in float32: tanh(score)."""
    import torch

    return torch.tanh(raw.float())


def load_value_model(base: str, *, fresh: bool = False, dtype: Any = None) -> tuple[Any, Any]:
    """Return a sequence-classification model with one output, and its tokenizer.

    With `fresh`, the base may be a policy. Its value head is then created with zeros, so that every
    value starts at 0 (rStar-Math's code: N(5e-7, 1e-6)). Without `fresh`, a checkpoint that lacks
    the head or any other weight raises `InputError`.
    """
    require_torch()
    import torch
    from transformers import AutoModelForSequenceClassification

    source, options = resolve_checkpoint(base)
    with convert_load_errors(base):
        model, report = AutoModelForSequenceClassification.from_pretrained(
            source,
            dtype=dtype or torch.float32,
            attn_implementation="sdpa",
            output_loading_info=True,
            **({"num_labels": 1} if fresh else {}),
            **options,
        )
        tokenizer = load_tokenizer(base)
    if not hasattr(model, "score"):
        raise InputError(
            f"{base} ({type(model).__name__}) does not score the last token of a causal language "
            "model; give a language model, or a checkpoint that rstar train ppm wrote."
        )
    check_tokenizer(base, model, tokenizer)
    missing = sorted(str(key) for key in report["missing_keys"])
    only_head_missing = all(key.startswith("score") for key in missing)
    if fresh and only_head_missing:
        torch.nn.init.zeros_(model.score.weight)
    elif missing:
        problem = "has no value head (score)" if only_head_missing else f"lacks {missing[0]}"
        raise InputError(
            f"{base} {problem}, so it cannot score; give a checkpoint that rstar train ppm wrote."
        )
    if getattr(model.config, "num_labels", None) != 1:
        raise InputError(
            f"{base} has {model.config.num_labels} outputs but a scorer has one; give a checkpoint "
            "that rstar train ppm wrote."
        )
    clear_quantization(model)
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def backbone_of(model: Any) -> Any:
    """Return the part of a classification or causal model that computes hidden states."""
    return getattr(model, model.base_model_prefix)


def probe_head(inputs: int, hidden: int) -> Any:
    """Return a head for frozen hidden states with one output.

    The head is linear if `hidden` is 0, else an MLP with one layer of `hidden` units.
    """
    import torch

    if hidden == 0:
        return torch.nn.Linear(inputs, 1)
    return torch.nn.Sequential(
        torch.nn.Linear(inputs, hidden), torch.nn.GELU(), torch.nn.Linear(hidden, 1)
    )


def save_probe(folder: Path, head: Any, about: dict[str, object]) -> None:
    """Write the head of a probe into a folder.

    `about` contains the policy that the probe reads (`base`), the `layers` and the `hidden` units.
    """
    from safetensors.torch import save_file

    weights = {name: value.detach().contiguous() for name, value in head.state_dict().items()}
    save_file(weights, str(folder / PROBE_FILE), metadata={"probe": json.dumps(about)})
    config = {"model_type": "rstar_probe", **about}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def load_probe(folder: Path, base: str | None = None) -> tuple[Any, Any, Any, tuple[int, ...]]:
    """Return a probe's policy (without LM head), tokenizer, head, and the layers it reads.

    `base` names the policy if it has moved. Raises `InputError` if the head does not fit the
    policy.
    """
    require_torch()
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModel

    read_notes(folder)
    with convert_load_errors(str(folder)):
        about = read_json_object(folder / "config.json")
        layers = tuple(int(layer) for layer in about["layers"])
        size, depth, hidden = (int(about[key]) for key in ("size", "depth", "hidden"))
        weights = load_file(str(folder / PROBE_FILE))
        base = base or str(about["base"])
    source, options = resolve_checkpoint(base)
    with convert_load_errors(base):
        backbone = AutoModel.from_pretrained(
            source, dtype=torch.float32, attn_implementation="sdpa", **options
        )
        tokenizer = load_tokenizer(base)
    check_tokenizer(base, backbone, tokenizer)
    found = backbone.config.get_text_config()
    if (found.hidden_size, found.num_hidden_layers) != (size, depth):
        raise InputError(
            f"The probe {folder} needs a policy with {depth} layers of size {size}, but {base} has "
            f"{found.num_hidden_layers} of size {found.hidden_size}; name its own policy."
        )
    if not layers or any(not -depth - 1 <= layer <= depth for layer in layers):
        raise InputError(
            f"The probe {folder} reads the layers {list(layers)} of {depth}; copy it again."
        )
    head = probe_head(size * len(layers), hidden)
    with convert_load_errors(str(folder)):
        head.load_state_dict(weights)
    return backbone, tokenizer, head, layers


def select_hidden_states(outputs: Any, layers: Sequence[int] | None) -> Any:
    """Return the hidden states that a head reads, (B, L, H x layers).

    With `layers` None these are the last hidden states, else those of the given layers,
    concatenated.
    """
    import torch

    if layers is None:
        return outputs.last_hidden_state
    return torch.cat([outputs.hidden_states[layer] for layer in layers], dim=-1)
