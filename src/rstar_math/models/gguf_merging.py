"""A GGUF file written anew for speed: 4-bit matrices as Q8_0, and an adapter put into the weights.

A merged model runs as fast as its base alone, and of a preference model llama.cpp keeps the
prompts, which it does not for one that is an adapter.
"""

from pathlib import Path
from typing import Any

from rstar_math.errors import InputError
from rstar_math.models.gguf_families import FAMILIES, ModelSpec
from rstar_math.models.gguf_files import readout
from rstar_math.models.gguf_header import read_header
from rstar_math.models.gguf_tensors import GgufTensors
from rstar_math.models.gguf_writing import add_fact, require_gguf
from rstar_math.models.value_head import WEIGHT, ValueHead
from rstar_math.whole_files import replacing

_OF_THE_BASE = "rstar.base."


def repack(source: Path, target: Path, adapter: Path | None = None) -> None:
    """Write to `target`, whole or not at all, a model with its Q4_1 matrices and those that
    `adapter` changes as Q8_0, everything else as it is.

    Raises `InputError` for damaged files, `MissingExtra`, and `OSError` where `target` cannot be
    written.
    """
    gguf = require_gguf()
    with replacing(target) as part:
        reader = gguf.GGUFReader(source)
        writer = gguf.GGUFWriter(part, arch=reader.get_field("general.architecture").contents())
        _copy_facts(gguf, reader, writer)
        change = _Adapter(adapter) if adapter else None
        for tensor in reader.tensors:
            data, kind = tensor.data, tensor.tensor_type
            added = change.of(tensor.name) if change else None
            if added is not None or kind == gguf.GGMLQuantizationType.Q4_1:
                whole = gguf.quants.dequantize(data, kind)
                kind = gguf.GGMLQuantizationType.Q8_0
                data = gguf.quants.quantize(whole if added is None else whole + added, kind)
            writer.add_tensor(tensor.name, data, raw_dtype=kind)
        if change is not None:
            change.write_head(gguf, reader, writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def put_in(adapter: Path, model: Any) -> None:
    """Add what an adapter learned to the weights of a transformers model of its base; a preference
    model gets its head. Raises `InputError` and `MissingExtra`."""
    import torch

    header, scorer = read_header(adapter), hasattr(model, "score")
    config = model.config.to_dict()
    spec = ModelSpec(FAMILIES[config["model_type"]], scorer=scorer, config=config)
    change = _Adapter(adapter)
    with torch.no_grad():
        if scorer:
            head = ValueHead.of_header(header)
            if head.bias:
                raise InputError(f"{adapter} has a head with a bias, which a checkpoint has not.")
            model.score.weight.copy_(torch.tensor([head.weight]))
        for tensor, weights in model.named_parameters():
            added = change.of(spec.gguf_name(tensor) or "")
            if added is not None:
                weights += torch.from_numpy(spec.from_gguf(tensor, added))


class _Adapter:
    """What an adapter adds to its base."""

    def __init__(self, path: Path) -> None:
        self._facts = read_header(path).facts
        self._learned = GgufTensors(path)

    def of(self, name: str) -> Any:
        """What is added to a matrix; None for one that is left alone."""
        if f"{name}.lora_a" not in self._learned:
            return None
        a, b = self._learned[f"{name}.lora_a"], self._learned[f"{name}.lora_b"]
        return (float(self._facts["adapter.lora.alpha"]) / a.shape[0]) * (b @ a)

    def write_head(self, gguf: Any, reader: Any, writer: Any) -> None:
        """The adapter's facts, and a preference model's head as its output matrix."""
        for key, value in self._facts.items():
            if key.startswith("rstar.") and not key.startswith(_OF_THE_BASE):
                add_fact(writer, key, value)
        if WEIGHT in self._facts:
            vocabulary = next(t for t in reader.tensors if t.name == "token_embd.weight").shape[1]
            kind = gguf.GGMLQuantizationType.Q8_0
            rows = readout(self._facts[WEIGHT], int(vocabulary))
            data = gguf.quants.quantize(rows, kind)
            writer.add_tensor("output.weight", data, raw_dtype=kind)


def _copy_facts(gguf: Any, reader: Any, writer: Any) -> None:
    for key, entry in reader.fields.items():
        if key.startswith(("GGUF.", "general.architecture")):
            continue
        value = entry.contents()
        if key == "general.file_type":
            value = int(gguf.LlamaFileType.MOSTLY_Q8_0)
        sub_type = entry.types[1] if len(entry.types) > 1 else None
        writer.add_key_value(key, value, entry.types[0], sub_type=sub_type)
