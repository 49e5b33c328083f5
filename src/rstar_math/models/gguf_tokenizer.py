"""A checkpoint's tokenizer as llama.cpp wants it described: byte-level BPE with a way of cutting
text into words that llama.cpp has a name for."""

import json
from pathlib import Path
from typing import Any

from rstar_math.errors import InputError

_END_OF_WORDS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_BY_PATTERN = {
    _WORDS + r"\p{N}{1,3}" + _END_OF_WORDS: "llama-bpe",
    _WORDS + r"\p{N}" + _END_OF_WORDS: "qwen2",
}
"""llama.cpp's names for the patterns of Llama 3 and Qwen2."""
_NORMAL, _CONTROL, _OURS, _UNUSED = 1, 3, 4, 5
"""ggml's kinds of tokens."""


def tokenizer_facts(folder: Path, vocabulary: int) -> dict[str, Any]:
    """The entries `tokenizer.*` of a GGUF file for a model with `vocabulary` rows of embeddings.

    Raises `InputError` where the folder has no tokenizer, or one that llama.cpp would read
    differently.
    """
    whole = _read(folder / "tokenizer.json")
    said = _read(folder / "tokenizer_config.json")
    model = whole.get("model") or {}
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise InputError(
            f"The tokenizer of {folder} is not byte-level BPE; rstar deploy writes models of that "
            "family (SmolLM2, Llama 3, Qwen2)."
        )
    added = {int(entry["id"]): entry for entry in whole.get("added_tokens", [])}
    by_id = {index: token for token, index in model["vocab"].items()}
    by_id |= {index: entry["content"] for index, entry in added.items()}
    if not by_id or max(by_id) >= vocabulary:
        raise InputError(
            f"The tokenizer of {folder} has more tokens than its model ({vocabulary}); copy the "
            "checkpoint again."
        )
    kinds = [_NORMAL if index in by_id else _UNUSED for index in range(vocabulary)]
    for index, entry in added.items():
        kinds[index] = _CONTROL if entry.get("special") else _OURS
    ids = {token: index for index, token in by_id.items()}
    end = _special(said.get("eos_token"), ids)
    begin = _special(said.get("bos_token"), ids)
    before, after = _wrapped(whole.get("post_processor"), ids)
    facts = {
        "model": "gpt2",
        "pre": _cut(folder, whole),
        "tokens": [by_id.get(index, f"[PAD{index}]") for index in range(vocabulary)],
        "token_type": kinds,
        "merges": [m if isinstance(m, str) else " ".join(m) for m in model["merges"]],
        "eos_token_id": end,
        "bos_token_id": begin if begin is not None else end,
        "padding_token_id": _special(said.get("pad_token"), ids),
        "add_bos_token": before is not None and before == begin,
        "add_eos_token": after is not None and after == end,
        "add_space_prefix": False,
    }
    if not facts["merges"]:
        raise InputError(f"The tokenizer of {folder} has no merges; llama.cpp cannot read it.")
    found = {f"tokenizer.ggml.{key}": value for key, value in facts.items() if value is not None}
    template = folder / "chat_template.jinja"
    chat = template.read_text(encoding="utf-8") if template.is_file() else said.get("chat_template")
    return found | ({"tokenizer.chat_template": chat} if isinstance(chat, str) else {})


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is missing or damaged; give a checkpoint that rstar train wrote."
        ) from error
    return found if isinstance(found, dict) else {}


def _special(entry: Any, ids: dict[str, int]) -> int | None:
    """The number of a special token as a tokenizer's configuration names it."""
    text = entry.get("content") if isinstance(entry, dict) else entry
    return ids.get(text) if isinstance(text, str) else None


def _cut(folder: Path, whole: dict[str, Any]) -> str:
    """llama.cpp's name for how the tokenizer cuts text into words."""
    given = whole.get("pre_tokenizer") or {}
    parts = given.get("pretokenizers", [given])
    first, last = parts[0], parts[-1]
    plain = last.get("type") == "ByteLevel" and not last.get("add_prefix_space")
    normal = (whole.get("normalizer") or {"type": "NFC"}).get("type") == "NFC"
    if plain and normal and last.get("use_regex", True):
        if len(parts) == 1:
            return "gpt-2"
        if len(parts) == 2 and first.get("type") == "Digits" and first.get("individual_digits"):
            return "smollm"
    elif plain and normal and len(parts) == 2 and first.get("type") == "Split":
        name = _BY_PATTERN.get((first.get("pattern") or {}).get("Regex", ""))
        if name is not None:
            return name
    raise InputError(
        f"The tokenizer of {folder} cuts text in a way that llama.cpp is not known to share; serve "
        "this checkpoint with vLLM or transformers."
    )


def _wrapped(processor: Any, ids: dict[str, int]) -> tuple[int | None, int | None]:
    """The tokens that are put before and after every text."""
    parts = processor.get("processors", [processor]) if isinstance(processor, dict) else []
    for part in parts:
        if part.get("type") != "TemplateProcessing":
            continue
        marks = [next(iter(piece.items())) for piece in part.get("single", [])]
        texts = [at for at, (kind, _) in enumerate(marks) if kind == "Sequence"]
        found = [
            (at, ids.get(str(entry.get("id"))))
            for at, (kind, entry) in enumerate(marks)
            if kind == "SpecialToken"
        ]
        before = next((index for at, index in found if texts and at < texts[0]), None)
        return before, next((index for at, index in found if texts and at > texts[0]), None)
    return None, None
