"""Loads models, tokenizers and value heads with transformers: folders, .gguf files, names."""

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
    read_notes,
    require_torch,
    save_checkpoint,
)
from rstar_math.checkpoints.tensors import GGUF_F32, WeightFiles, read_header
from rstar_math.checkpoints.value_heads import PROBE
from rstar_math.config.sections import LOCAL, TRAINED
from rstar_math.errors import InputError, RstarError
from rstar_math.models.downloads import resolve_model
from rstar_math.models.names import parse_base


def load_policy(base: str, *, dtype: Any = None) -> tuple[Any, Any]:
    """A causal language model, in float32 unless `dtype` says otherwise, and its tokenizer.

    `base` is "local" (the embedded SmolLM2-135M), "trained" (with this package's adapter in it), a
    name of the catalogue, a .gguf file, a checkpoint folder, or a repository of the hub (ORG/NAME,
    also after "hf:"). Raises `InputError` and `MissingDependencyError`, and for downloads as
    `downloads.resolve_model` does.
    """
    require_torch()
    import torch
    from transformers import AutoModelForCausalLM

    where, options = resolve_checkpoint(base)
    with convert_load_errors(base):
        _require_policy(base, where, options)
        model, loaded = AutoModelForCausalLM.from_pretrained(
            where, dtype=dtype or torch.float32, output_loading_info=True, **options
        )
        if loaded["missing_keys"]:
            raise InputError(
                f"{base} lacks {min(map(str, loaded['missing_keys']))}, so it is no whole language "
                "model; give one that has its word head."
            )
        clear_quantization(model)
        tokenizer = load_tokenizer(base)
    check_tokenizer(base, model, tokenizer)
    return model, tokenizer


def is_stored_small(base: str) -> bool:
    """Whether a model is stored in 16 bits or quantized, told from the headers of its files (of a
    model that is not here yet, from its config)."""
    import torch
    from transformers import AutoConfig

    where, options = resolve_checkpoint(base)
    if "gguf_file" in options:
        kinds = Counter[int]()
        for place in read_header(Path(where) / options["gguf_file"]).tensors.values():
            kinds[place.kind] += prod(place.shape)
        return kinds[GGUF_F32] < kinds.total() / 2
    with suppress(InputError):
        return WeightFiles(Path(where)).bytes_per_weight() < 3
    with convert_load_errors(base):
        return AutoConfig.from_pretrained(where).dtype in (torch.bfloat16, torch.float16)


def _require_policy(base: str, where: str, options: Mapping[str, Any]) -> None:
    """Refuse what was saved as something else than a causal language model: transformers would
    load it, with a word head of random numbers."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(where, **options)
    for name in config.architectures or ():
        if name.endswith("ForSequenceClassification"):
            raise InputError(
                f"{base} is a scorer ({name}) and not a policy; give the policy that it was "
                "trained from, or another language model."
            )
        if name.endswith(("ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering")):
            raise InputError(
                f"{base} is no causal language model ({name}); give one that continues text."
            )


def check_tokenizer(base: str, model: Any, tokenizer: Any) -> None:
    """Nothing, where a tokenizer is one for the model; else raises `InputError`."""
    room = model.get_input_embeddings().num_embeddings
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= room:
        raise InputError(
            f"The tokenizer in {base} has {largest + 1} tokens and the model knows {room}: they do "
            "not belong together; copy the tokenizer that came with the model."
        )
    if tokenizer.pad_token is None:
        raise InputError(
            f"The tokenizer in {base} has neither a padding nor an end token; give it one "
            "(eos_token in its tokenizer_config.json)."
        )


def load_tokenizer(base: str) -> Any:
    """The tokenizer of a model, with a padding token; it cuts text as llama.cpp does."""
    from transformers import AutoTokenizer

    where, options = resolve_checkpoint(base)
    tokenizer = AutoTokenizer.from_pretrained(where, **options)
    if "gguf_file" in options:
        _cut_as_llama_cpp(tokenizer, Path(where) / options["gguf_file"])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _cut_as_llama_cpp(tokenizer: Any, file: Path) -> None:
    """Have a tokenizer that was read from a GGUF file take digits one by one where the file says
    so: transformers does not look, and then joins the spaces before a number otherwise."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    if read_header(file).metadata.get("tokenizer.ggml.pre") == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
            [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        )


def resolve_checkpoint(base: str) -> tuple[str, dict[str, Any]]:
    """What to hand to `from_pretrained` for a model: a place, and options. Downloads a model of the
    catalogue or the hub that is not on this disk. Code from a repository is never run."""
    options: dict[str, Any] = {"trust_remote_code": False}
    meant = parse_base(base)
    if meant.kind == "packaged" and meant.text == TRAINED:
        return str(trained_folder()), options
    path = bundled_weights() if meant.text == LOCAL else Path(meant.text).expanduser()
    if meant.kind not in ("packaged", "file", "folder"):
        path = resolve_model(meant)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputError(f"There is no model file {path}; give a .gguf file or a checkpoint.")
        return str(path.parent), {**options, "gguf_file": path.name}
    if not path.is_dir():
        raise InputError(
            f"There is no checkpoint {path}; give a folder that rstar train wrote, or hf:ORG/NAME "
            "of the hub."
        )
    read_notes(path)
    return str(path), options


def trained_folder(kind: Literal["policy", "ppm"] = "policy") -> Path:
    """The checkpoint of the embedded model with this package's adapter of a kind in it, in float32
    (540 MB); written into the cache when it is first asked for. Raises `StoreError` where it cannot
    be."""
    with bundled_adapter(kind) as (adapter, mark):
        folder = cache_dir() / f"SmolLM2-135M-rstar-{kind}.{mark}"
        if is_complete(folder):
            return folder
        with convert_io_errors(folder), _exclusive(folder):
            if not is_complete(folder):
                shutil.rmtree(folder, ignore_errors=True)
                model, tokenizer = _with_adapter(kind, adapter)
                with save_checkpoint(
                    folder, {"kind": kind, "base": LOCAL, "adapter": mark}
                ) as part:
                    model.save_pretrained(part)
                    tokenizer.save_pretrained(part)
    return folder


def _with_adapter(kind: str, adapter: Path) -> tuple[Any, Any]:
    """The embedded model with an adapter in its weights, a preference model's head too."""
    from rstar_math.checkpoints.gguf_adapters import apply_adapter

    if kind == "policy":
        model, tokenizer = load_policy(LOCAL)
    else:
        model, tokenizer = load_scored(LOCAL, fresh=True)
    apply_adapter(adapter, model)
    return model, tokenizer


@contextmanager
def _exclusive(target: Path) -> Iterator[None]:
    """A block that one process at a time is in, for each target. Raises `OSError`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def clear_quantization(model: Any) -> None:
    """Let a model that was read from a GGUF file be trained and saved as what it now is: full
    weights."""
    for config in (model.config, *(m.config for m in model.modules() if hasattr(m, "config"))):
        for name in ("quantization_config", "_is_quantized"):
            if hasattr(config, name):
                delattr(config, name)
    model.hf_quantizer = None
    model.is_quantized = False


@contextmanager
def convert_load_errors(base: str) -> Iterator[None]:
    """A block in which a model's files are read; what transformers, safetensors and torch say of
    bad ones becomes one sentence (`InputError`), and their bars and reports are not shown."""
    from transformers import modeling_gguf_pytorch_utils
    from transformers.utils import logging

    reading: Any = modeling_gguf_pytorch_utils
    reading.tqdm = logging.tqdm  # so that its bar goes by the switch that the others go by
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with no_progress_bars():
            yield
    except (RstarError, MemoryError):
        raise
    except Exception as error:
        first = " ".join(str(error).split())[:200]
        raise InputError(
            f"{base} cannot be loaded as a model ({type(error).__name__}: {first}); is it a whole "
            "checkpoint that transformers reads?"
        ) from error
    finally:
        logging.set_verbosity(before)


def value_from_score(raw: Any) -> Any:
    """Values in [-1, 1] of raw scores, in float32."""
    import torch

    return torch.tanh(raw.float())


def load_scored(base: str, *, fresh: bool = False, dtype: Any = None) -> tuple[Any, Any]:
    """A sequence-classification model with one output, and its tokenizer.

    With `fresh` the base may be a policy, whose head is made anew: all zeros, so that every value
    begins at 0 (rStar-Math's code: N(5e-7, 1e-6)). Without, a checkpoint that lacks the head or
    any other weight is refused (`InputError`).
    """
    require_torch()
    import torch
    from transformers import AutoModelForSequenceClassification

    where, options = resolve_checkpoint(base)
    with convert_load_errors(base):
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            where,
            dtype=dtype or torch.float32,
            attn_implementation="sdpa",
            output_loading_info=True,
            **({"num_labels": 1} if fresh else {}),
            **options,
        )
        tokenizer = load_tokenizer(base)
    if not hasattr(model, "score"):
        raise InputError(
            f"{base} ({type(model).__name__}) is no causal language model with a value head at its "
            "last token; give a model that continues text, or what rstar train ppm wrote."
        )
    check_tokenizer(base, model, tokenizer)
    missing = sorted(str(key) for key in loaded["missing_keys"])
    headless = [key for key in missing if key.startswith("score")]
    if fresh and missing == headless:
        torch.nn.init.zeros_(model.score.weight)
    elif missing:
        what = "has no value head (score)" if headless == missing else f"lacks {missing[0]}"
        raise InputError(
            f"{base} {what}, so it cannot score; give a checkpoint that rstar train ppm wrote."
        )
    if getattr(model.config, "num_labels", None) != 1:
        raise InputError(
            f"{base} gives {model.config.num_labels} outputs and a scorer has one; give a "
            "checkpoint that rstar train ppm wrote."
        )
    clear_quantization(model)
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def backbone_of(model: Any) -> Any:
    """The part of a classification or causal model that gives hidden states."""
    return getattr(model, model.base_model_prefix)


def probe_head(inputs: int, hidden: int) -> Any:
    """A head on frozen hidden states: linear where `hidden` is 0, else an MLP with one layer of
    that many units."""
    import torch

    if hidden == 0:
        return torch.nn.Linear(inputs, 1)
    return torch.nn.Sequential(
        torch.nn.Linear(inputs, hidden), torch.nn.GELU(), torch.nn.Linear(hidden, 1)
    )


def save_probe(folder: Path, head: Any, about: dict[str, object]) -> None:
    """Write a probe's head; `about` names the policy it reads (`base`), the `layers` and the
    `hidden` units."""
    from safetensors.torch import save_file

    weights = {name: value.detach().contiguous() for name, value in head.state_dict().items()}
    save_file(weights, str(folder / PROBE), metadata={"probe": json.dumps(about)})
    config = {"model_type": "rstar_probe", **about}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def load_probe(folder: Path, base: str | None = None) -> tuple[Any, Any, Any, tuple[int, ...]]:
    """A probe's policy (without LM head), tokenizer, head, and the layers it reads.

    `base` names the policy where it has moved. Raises `InputError` where the policy is not one that
    the head fits.
    """
    require_torch()
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModel

    read_notes(folder)
    with convert_load_errors(str(folder)):
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        layers = tuple(int(layer) for layer in about["layers"])
        weights = load_file(str(folder / PROBE))
        base = base or str(about["base"])
    where, options = resolve_checkpoint(base)
    with convert_load_errors(base):
        backbone = AutoModel.from_pretrained(
            where, dtype=torch.float32, attn_implementation="sdpa", **options
        )
        tokenizer = load_tokenizer(base)
    check_tokenizer(base, backbone, tokenizer)
    size = backbone.config.get_text_config().hidden_size
    if (size, backbone.config.num_hidden_layers) != (about["size"], about["depth"]):
        raise InputError(
            f"The probe {folder} reads a policy of {about['depth']} layers of {about['size']}, and "
            f"{base} has {backbone.config.num_hidden_layers} of {size}; name its own policy."
        )
    head = probe_head(size * len(layers), int(about["hidden"]))
    with convert_load_errors(str(folder)):
        head.load_state_dict(weights)
    return backbone, tokenizer, head, layers


def hidden_at(outputs: Any, layers: Sequence[int] | None) -> Any:
    """The hidden states a head reads, (B, L, H x layers): the last, or those of some layers side
    by side."""
    import torch

    if layers is None:
        return outputs.last_hidden_state
    return torch.cat([outputs.hidden_states[layer] for layer in layers], dim=-1)
