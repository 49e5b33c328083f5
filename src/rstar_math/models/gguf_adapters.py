"""LoRA adapters as GGUF files: what was learned, without the model it was learned on. llama.cpp
adds it to the base's weights at run time.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

from rstar_math.errors import InputError
from rstar_math.models.gguf_families import ModelSpec, read_spec
from rstar_math.models.gguf_files import shared_facts
from rstar_math.models.gguf_header import GgufHeader, norm_fingerprint, read_header
from rstar_math.models.gguf_writing import Kind, Piece, write_pieces
from rstar_math.models.weight_files import WeightFiles

BASE = "rstar.base."
_PLAIN = re.compile(r"base_model\.model\.(.+)\.lora_(A|B)\.weight")


def write_adapter(checkpoint: Path, out: Path, *, kind: Kind = "f16") -> Path:
    """`out`, written whole or not at all: the adapter of a policy or preference model that was
    trained with LoRA, with a preference model's head.

    The base is known again by its shape and last norm. Raises `InputError`, `MissingExtra`, and
    `StoreError` for the disk.
    """
    spec = read_spec(checkpoint)
    folder = checkpoint / "adapter"
    if not (folder / "adapter_config.json").is_file():
        raise InputError(
            f"{checkpoint} has no adapter: it was trained without LoRA; deploy it without "
            "--adapter, or say what it was trained from (--base local)."
        )
    scale, rank = _settings(folder)
    weights = WeightFiles(folder, "adapter_model")
    last = spec.to_gguf("model.norm.weight", WeightFiles(checkpoint)["model.norm.weight"])
    size = int(spec.config["hidden_size"])
    facts = shared_facts(checkpoint, spec, "adapter")
    facts |= base_facts(spec.layers, size, norm_fingerprint(last.tobytes()))
    facts |= {"adapter.type": "lora", "adapter.lora.alpha": scale * rank}
    return write_pieces(out, spec.architecture, facts, _pieces(folder, spec, weights, kind))


def _settings(folder: Path) -> tuple[float, int]:
    """What the product of an adapter's matrices is multiplied with, and their rank."""
    try:
        said = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        rank, alpha = int(said["r"]), float(said["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}/adapter_config.json is damaged; copy it again.") from error
    odd = [key for key in ("use_dora", "rank_pattern", "alpha_pattern") if said.get(key)]
    if odd or said.get("bias", "none") != "none" or rank < 1:
        raise InputError(
            f"The adapter {folder} uses {odd[0] if odd else 'biases'}, which llama.cpp's adapters "
            "have not; deploy the merged model, without --adapter."
        )
    return alpha / (math.sqrt(rank) if said.get("use_rslora") else rank), rank


def _pieces(folder: Path, spec: ModelSpec, weights: WeightFiles, kind: Kind) -> list[Piece]:
    """An adapter's matrices, each pair brought to one size, so that small numbers keep their digits
    in float16."""
    pieces = []
    for key in weights:
        found = _PLAIN.fullmatch(key)
        if found is None:
            if key.startswith("base_model.model.score"):
                continue
            raise InputError(
                f"The adapter {folder} has {key}, which llama.cpp's adapters have not; deploy the "
                "merged model, without --adapter."
            )
        module, side = found[1], found[2]
        name = spec.gguf_name(f"{module}.weight")
        if name is None:
            raise InputError(f"llama.cpp's {spec.architecture} has no {module}.")

        def data(key: str = key, module: str = module, side: str = side) -> Any:
            other = key.replace(f".lora_{side}.", f".lora_{'AB'.replace(side, '')}.")
            matrix = weights[key] * _evened(weights[key], weights[other])
            return spec.to_gguf(f"{module}.weight", matrix) if side == "B" else matrix

        pieces.append(Piece(f"{name}.lora_{side.lower()}", weights.shape(key), kind, data))
    return pieces


def _evened(one: Any, other: Any) -> float:
    """The power of two that brings a matrix to the size of its partner, half of the way."""
    sizes = float(abs(one).max()), float(abs(other).max())
    if min(sizes) == 0.0:
        return 1.0
    return 2.0 ** round(math.log2(sizes[1] / sizes[0]) / 2)


def base_facts(layers: int, size: int, norm: str) -> dict[str, Any]:
    """What tells an adapter's base from other models: its layers, the length of a hidden state, and
    the fingerprint of its last norm."""
    return {BASE + "layers": layers, BASE + "size": size, BASE + "norm": norm}


def check_adapter(adapter: Path, base: Path, *, kind: str) -> GgufHeader:
    """An adapter's header, if it is one of this kind ("policy" or "ppm") for this base.

    Adapters that others wrote do not say what they are for; llama.cpp then compares shapes. Raises
    `InputError`.
    """
    header, below = read_header(adapter), read_header(base)
    if header.facts.get("general.type") != "adapter":
        raise InputError(f"{adapter} is a whole model, not an adapter; give it as --model.")
    ours = header.facts.get("rstar.kind", kind)
    if ours != kind:
        kinds = {"ppm": "a preference model", "policy": "a policy"}
        raise InputError(
            f"The adapter {adapter} is of {kinds.get(ours, ours)}, and {kinds[kind]} is wanted; "
            f"give it as {'search.ppm' if ours == 'ppm' else 'model.adapter'}."
        )
    facts = header.facts
    wanted = facts.get(BASE + "layers"), facts.get(BASE + "size"), facts.get(BASE + "norm")
    there = below.fact("block_count"), below.fact("embedding_length")
    alike = header.architecture == below.architecture
    known = wanted[:2] == there and wanted[2] in below.fingerprints()
    if not alike or (wanted[0] is not None and not known):
        raise InputError(
            f"The adapter {adapter} was trained on another model than {base} "
            f"({facts.get('rstar.base') or 'not named'}, {wanted[0]} layers of {wanted[1]}); name "
            "its own with --model."
        )
    return header
