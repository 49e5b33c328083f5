"""Writes a reward model without its head, so that vLLM can serve its hidden states.

vLLM refuses weights that its model class does not know, such as TRL's value head. The head is then
applied in this process (`scorers.heads`).
"""

import json
import shutil
from pathlib import Path
from typing import Any, BinaryIO

from rstar_math.checkpoints.folders import save_checkpoint
from rstar_math.errors import InputError

_HEADS = ("v_head.", "score.", "classifier.")
_WRAPPER = "pretrained_model."
_CHUNK_BYTES = 1 << 24


def write_backbone(checkpoint: Path, out: Path) -> Path:
    """Write a checkpoint without its head to the folder `out`, and return it.

    The architecture becomes the family's causal language model. Other files are copied, except
    code. The folder is complete or absent. Raises `InputError` for a folder that is no checkpoint,
    and `StoreError` for disk failures.
    """
    config = _read_json(checkpoint / "config.json")
    weights = sorted(checkpoint.glob("model*.safetensors"))
    names = config.get("architectures")
    if not weights or not isinstance(names, list) or not names:
        raise InputError(
            f"{checkpoint} is not a checkpoint with safetensors weights; give the folder of a "
            "reward model."
        )
    family = str(names[0]).partition("For")[0]
    config["architectures"] = [f"{family}ForCausalLM"]
    config.pop("auto_map", None)
    with save_checkpoint(out, {"kind": "backbone", "base": str(checkpoint)}) as part:
        for file in weights:
            _copy_weights(file, part / file.name)
        for file in sorted(checkpoint.iterdir()):
            copied = file.suffix in (".json", ".jinja", ".model", ".txt") and file.is_file()
            if copied and file.name not in ("config.json", "rstar.json"):
                shutil.copyfile(file, part / file.name)
        index = part / "model.safetensors.index.json"
        if index.is_file():
            _rename_index(index)
        (part / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return out


def _new_name(name: str) -> str | None:
    """Return a tensor's name without the head; None for a tensor of the head."""
    return None if name.startswith(_HEADS) else name.removeprefix(_WRAPPER)


def _copy_weights(source: Path, target: Path) -> None:
    """Copy a safetensors file without the tensors of a head."""
    with source.open("rb") as stream, target.open("wb") as sink:
        try:
            length = int.from_bytes(stream.read(8), "little")
            entries: dict[str, Any] = json.loads(stream.read(length))
            metadata = entries.pop("__metadata__", {"format": "pt"})
            header: dict[str, Any] = {"__metadata__": metadata}
            ranges: list[tuple[int, int]] = []
            end = 0
            for name, entry in sorted(entries.items(), key=lambda each: each[1]["data_offsets"]):
                if (kept := _new_name(name)) is None:
                    continue
                first, last = map(int, entry["data_offsets"])
                header[kept] = {**entry, "data_offsets": [end, end + last - first]}
                ranges.append((8 + length + first, last - first))
                end += last - first
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{source} is damaged or incomplete; copy it again.") from error
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        sink.write(len(text).to_bytes(8, "little") + text)
        for start, size in ranges:
            _copy_bytes(stream, sink, start, size)


def _copy_bytes(stream: BinaryIO, sink: BinaryIO, start: int, size: int) -> None:
    stream.seek(start)
    while size:
        data = stream.read(min(size, _CHUNK_BYTES))
        if not data:
            raise InputError(f"{stream.name} is damaged or incomplete; copy it again.")
        sink.write(data)
        size -= len(data)


def _rename_index(file: Path) -> None:
    """Remove the head from the list of tensors of a checkpoint in several files."""
    index = _read_json(file)
    table = index.get("weight_map")
    kept = {_new_name(name): place for name, place in (table or {}).items()}
    index["weight_map"] = {name: place for name, place in kept.items() if name is not None}
    file.write_text(json.dumps(index), encoding="utf-8")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read ({error}); give a complete checkpoint.") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} is not a JSON object; give a complete checkpoint.")
    return content
