"""LoRA adapters in the form in which vLLM and PEFT load them: a folder with
adapter_model.safetensors and adapter_config.json."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstar_math.errors import InputError
from rstar_math.models.checkpoints import read_notes, writing
from rstar_math.models.weight_files import WeightFiles

_LORA = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_[AB]\.weight")
_REFUSED = (
    *("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "layer_replication"),
    *("use_qalora", "use_bdlora", "lora_bias", "alora_invocation_tokens", "target_parameters"),
)
"""Settings of PEFT that vLLM refuses, or reads over."""
_MERGED = "deploy the merged model, without --adapter"


@dataclass(frozen=True, slots=True)
class PeftAdapter:
    """An adapter folder that was written."""

    folder: Path
    base: str
    """The model it was trained on."""
    rank: int


def write_peft_adapter(checkpoint: Path, out: Path) -> PeftAdapter:
    """Write to `out`, whole or not at all, the adapter of a policy that was trained with LoRA, as
    `vllm serve BASE --enable-lora --lora-modules NAME=OUT` loads it.

    Raises `InputError` for what vLLM does not load, a preference model's adapter among it, and
    `StoreError` for the disk.
    """
    notes = read_notes(checkpoint)
    folder = checkpoint / "adapter"
    if not (folder / "adapter_config.json").is_file():
        raise InputError(
            f"{checkpoint} has no adapter: it was trained without LoRA; serve the folder itself, "
            f"vllm serve {checkpoint}."
        )
    weights = WeightFiles(folder, "adapter_model")
    if any("score" in key.split(".") for key in weights):
        raise InputError(
            f"{checkpoint} is a preference model, and vLLM loads no adapter with a head of its "
            f"own; serve the merged model: vllm serve {checkpoint} --runner pooling."
        )
    config = _read_config(folder)
    base = str(notes.get("base") or config.get("base_model_name_or_path") or "")
    rank = int(config["r"])
    config |= {
        "base_model_name_or_path": base,
        "target_modules": _modules(folder, weights),
        "modules_to_save": None,
        "inference_mode": True,
    }
    about: dict[str, object] = {"kind": "adapter", "base": base, "rank": rank}
    with writing(out, about) as part:
        (part / "adapter_config.json").write_text(
            json.dumps(config, indent=2, sort_keys=True), encoding="utf-8"
        )
        for file in sorted(folder.glob("adapter_model*.safetensors")):
            shutil.copyfile(file, part / file.name)
    return PeftAdapter(out, base, rank)


def _read_config(folder: Path) -> dict[str, Any]:
    """An adapter's settings. Raises `InputError` for those that vLLM does not know."""
    try:
        found = dict(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")))
        rank, alpha = int(found["r"]), float(found["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}/adapter_config.json is damaged; copy it again.") from error
    odd = [key for key in _REFUSED if found.get(key)]
    odd += [] if found.get("bias", "none") == "none" else ["bias"]
    odd += [] if found.get("peft_type", "LORA") == "LORA" and rank > 0 and alpha else ["peft_type"]
    if odd:
        raise InputError(
            f"The adapter {folder} has {odd[0]}={found.get(odd[0])!r}, which vLLM does not load; "
            f"{_MERGED}."
        )
    return found


def _modules(folder: Path, weights: WeightFiles) -> list[str]:
    """The names of the modules that were trained. Raises `InputError` where something else than
    LoRA matrices was."""
    found = set()
    for key in weights:
        named = _LORA.fullmatch(key)
        if named is None:
            raise InputError(
                f"The adapter {folder} has {key}, which vLLM's adapters have not; {_MERGED}."
            )
        found.add(named["module"].rpartition(".")[2])
    return sorted(found)
