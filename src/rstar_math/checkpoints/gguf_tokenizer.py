"""A checkpoint's tokenizer in the form that llama.cpp reads: byte-level BPE, whose rule for cutting
text into words must be one that llama.cpp has a name for, or SentencePiece BPE with byte fallback.
"""

import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstar_math.errors import InputError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_END_OF_WORDS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|"
_LOWER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
_UPPER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
_END_OF_TEKKEN = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _WORDS + r"\p{N}{1,3}" + _END_OF_WORDS
_QWEN2 = _WORDS + r"\p{N}" + _END_OF_WORDS
_TEKKEN = f"{_LOWER}|{_UPPER}|" + r"\p{N}" + _END_OF_TEKKEN
_GPT4O = f"{_LOWER}{_CONTRACTIONS}?|{_UPPER}{_CONTRACTIONS}?|" + r"\p{N}{1,3}" + _END_OF_TEKKEN
_BY_PATTERN = {
    (_LLAMA3, True): "llama-bpe",
    (_LLAMA3, False): "smaug-bpe",
    (_QWEN2, False): "qwen2",
    (_TEKKEN, True): "tekken",
    (_GPT4O, False): "gpt-4o",
}
"""llama.cpp's names for patterns of words, and whether a word that is a token is taken whole,
whatever the merges say: Llama 3, the same with merges, Qwen2 and Qwen3, Mistral Nemo, GPT-4o and
Phi-4."""
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
"""ggml's kinds of tokens."""
_ENDS_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")
_SPACE = "▁"
"""How SentencePiece writes a space."""
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_ADDED_SCORE = -1000.0
_STRIPPING_NAME = "phi-3"
"""A model's name by which llama.cpp knows that its special tokens swallow the space after them."""
_NOT_STRIPPING = {"<unk>", "<s>", "<|endoftext|>"}
"""The special tokens of such a model that do not."""
_FIRST_NOTE = (
    "After a special token llama.cpp reads one more space than transformers does with this "
    "tokenizer; text without special tokens is the same."
)


@dataclass(frozen=True, slots=True)
class GgufTokenizer:
    """A tokenizer as entries of a GGUF file."""

    metadata: dict[str, Any]
    """The entries `tokenizer.*`, with a remark where llama.cpp's tokens may differ."""
    stripping: bool
    """Whether special tokens swallow the white space after them."""

    def model_name(self, name: str) -> str:
        """A model's name, changed so that llama.cpp draws the right conclusion from it."""
        plain = re.sub("phi-?3", "phi 3", name, flags=re.IGNORECASE)
        return f"{plain} ({_STRIPPING_NAME})" if self.stripping else plain


def tokenizer_metadata(folder: Path, vocabulary: int) -> GgufTokenizer:
    """The tokenizer of a checkpoint whose model has `vocabulary` rows of embeddings.

    Raises `InputError` where the folder has no tokenizer, or one that llama.cpp would read
    differently.
    """
    said = _read(folder / "tokenizer_config.json")
    if not (folder / "tokenizer.json").is_file() and (folder / "tokenizer.model").is_file():
        return _of_sentencepiece(folder, said, vocabulary)
    whole = _read(folder / "tokenizer.json")
    model = whole.get("model") or {}
    if model.get("type") != "BPE":
        raise InputError(
            f"The tokenizer of {folder} is {model.get('type')}; rstar deploy writes BPE, "
            "byte-level or with byte fallback; serve the folder with vLLM."
        )
    tokens = _Tokens.of_json(folder, whole, vocabulary)
    merges = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    if not merges:
        raise InputError(f"The tokenizer of {folder} has no merges; llama.cpp cannot read it.")
    note = None
    if model.get("byte_fallback"):
        prefix, note = _prefix(folder, whole)
        facts = tokens.sentencepiece_facts(folder, _scores(folder, tokens, merges), prefix)
        unknown = tokens.ids.get(str(model.get("unk_token")))
        facts |= {} if unknown is None else {"unknown_token_id": unknown}
    else:
        facts = {"model": "gpt2", "pre": _word_pattern(folder, whole), "add_space_prefix": False}
        facts |= {"tokens": tokens.texts, "token_type": tokens.kinds}
        facts |= {"merges": [" ".join(merge) for merge in merges]}
    begin, end = _wrapped(whole.get("post_processor"), tokens.ids)
    return _finished(folder, said, tokens, facts, wrapped=(begin, end), note=note)


@dataclass(slots=True)
class _Tokens:
    """A vocabulary by numbers."""

    texts: list[str]
    kinds: list[int]
    ids: dict[str, int]
    stripping: bool = False

    @classmethod
    def of_json(cls, folder: Path, whole: Mapping[str, Any], vocabulary: int) -> "_Tokens":
        """The tokens of a tokenizer.json. Added tokens that the model has no rows for are left out,
        as in Gemma 3 1B, which names an image token that it cannot read."""
        added = {
            int(entry["id"]): entry
            for entry in whole.get("added_tokens", [])
            if int(entry["id"]) < vocabulary
        }
        by_id = {index: token for token, index in whole["model"]["vocab"].items()}
        beyond = {int(entry["id"]) for entry in whole.get("added_tokens", [])} - added.keys()
        by_id = {index: token for index, token in by_id.items() if index not in beyond}
        by_id |= {index: entry["content"] for index, entry in added.items()}
        if not by_id or max(by_id) >= vocabulary:
            raise InputError(
                f"The tokenizer of {folder} has more tokens than its model ({vocabulary}); copy "
                "the checkpoint again."
            )
        found = cls.padded(by_id, vocabulary)
        for index, entry in added.items():
            found.kinds[index] = _CONTROL if entry.get("special") else _USER_DEFINED
        found.stripping = _strips(folder, added)
        return found

    @classmethod
    def padded(cls, by_id: Mapping[int, str], vocabulary: int) -> "_Tokens":
        """Tokens by number; the numbers that have none are unused."""
        kinds = [_NORMAL if index in by_id else _UNUSED for index in range(vocabulary)]
        texts = [by_id.get(index, f"[PAD{index}]") for index in range(vocabulary)]
        return cls(texts, kinds, {token: index for index, token in by_id.items()})

    def normal(self) -> Iterator[tuple[int, str]]:
        """The tokens that text is cut into, apart from those of single bytes."""
        for index, (text, kind) in enumerate(zip(self.texts, self.kinds, strict=True)):
            if kind == _NORMAL and not _BYTE_TOKEN.fullmatch(text):
                yield index, text

    def sentencepiece_facts(
        self, folder: Path, scores: list[float], prefix: bool
    ) -> dict[str, Any]:
        """The entries of a SentencePiece vocabulary. Raises `InputError` where it has not all
        bytes."""
        kinds, texts = list(self.kinds), list(self.texts)
        there = set()
        for index, text in enumerate(texts):
            byte = _BYTE_TOKEN.fullmatch(text)
            if byte:
                kinds[index] = _BYTE
                there.add(byte[1])
            elif text == "<unk>":
                kinds[index] = _UNKNOWN
            elif kinds[index] == _USER_DEFINED:
                texts[index] = text.replace(_SPACE, " ")  # llama.cpp looks for it in the plain text
        if len(there) < 256:
            raise InputError(
                f"The tokenizer of {folder} has tokens for {len(there)} bytes of 256, and "
                "llama.cpp wants them all; serve the folder with vLLM."
            )
        return {"model": "llama", "pre": "default", "tokens": texts, "token_type": kinds} | {
            "scores": scores,
            "add_space_prefix": prefix,
        }


def _finished(
    folder: Path,
    said: Mapping[str, Any],
    tokens: _Tokens,
    facts: Mapping[str, Any],
    *,
    wrapped: tuple[int | None, int | None],
    note: str | None,
) -> GgufTokenizer:
    """A tokenizer with its special tokens and its chat template."""
    end = _special(said.get("eos_token"), tokens.ids)
    begin = _special(said.get("bos_token"), tokens.ids)
    template = folder / "chat_template.jinja"
    chat = template.read_text(encoding="utf-8") if template.is_file() else said.get("chat_template")
    chat = chat if isinstance(chat, str) else None
    found = dict(facts) | {
        "eos_token_id": end,
        "bos_token_id": begin if begin is not None else end,
        "eot_token_id": _end_of_turn(folder, chat, tokens.ids, end),
        "padding_token_id": _special(said.get("pad_token"), tokens.ids),
        "add_bos_token": wrapped[0] is not None and wrapped[0] == begin,
        "add_eos_token": wrapped[1] is not None and wrapped[1] == end,
    }
    named = {f"tokenizer.ggml.{key}": value for key, value in found.items() if value is not None}
    named |= {} if chat is None else {"tokenizer.chat_template": chat}
    named |= {} if note is None else {"rstar.tokenizer.note": note}
    return GgufTokenizer(named, tokens.stripping)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is missing or damaged; give a checkpoint that rstar train wrote."
        ) from error
    return found if isinstance(found, dict) else {}


def _special(entry: Any, ids: Mapping[str, int]) -> int | None:
    """The number of a special token as a tokenizer's configuration names it."""
    text = entry.get("content") if isinstance(entry, dict) else entry
    return ids.get(text) if isinstance(text, str) else None


def _end_of_turn(
    folder: Path, chat: str | None, ids: Mapping[str, int], end: int | None
) -> int | None:
    """The token that ends a chat's turn, where it is not the end of text: one that the template
    names, or another that generation ends with."""
    named = (ids.get(text) for text in _ENDS_OF_TURN if chat is not None and text in chat)
    found = [index for index in named if index is not None]
    if (folder / "generation_config.json").is_file():
        said = _read(folder / "generation_config.json").get("eos_token_id")
        found += [int(index) for index in said] if isinstance(said, list) else []
    return next((index for index in found if index != end and index in ids.values()), None)


def _strips(folder: Path, added: Mapping[int, Mapping[str, Any]]) -> bool:
    """Whether special tokens swallow the space after them, as Phi-3's do. Raises `InputError` where
    some do what llama.cpp cannot be told."""
    stripping = {str(entry["content"]) for entry in added.values() if entry.get("rstrip")}
    contents = {str(entry["content"]) for entry in added.values()}
    odd = [e["content"] for e in added.values() if e.get("lstrip") or e.get("single_word")]
    like_phi3 = stripping == contents - _NOT_STRIPPING and contents >= _NOT_STRIPPING | {"</s>"}
    if odd or (stripping and not like_phi3):
        raise InputError(
            f"The token {odd[0] if odd else min(stripping)} of {folder} swallows the space beside "
            "it, which llama.cpp cannot be told; serve the folder with vLLM."
        )
    return bool(stripping)


def _word_pattern(folder: Path, whole: Mapping[str, Any]) -> str:
    """llama.cpp's name for how a byte-level tokenizer cuts text into words."""
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
        pattern = (first.get("pattern") or {}).get("Regex", "")
        name = _BY_PATTERN.get((pattern, bool(whole["model"].get("ignore_merges"))))
        if name is not None:
            return name
    raise InputError(
        f"The tokenizer of {folder} cuts text in a way that llama.cpp is not known to share; serve "
        "this checkpoint with vLLM or transformers."
    )


def _prefix(folder: Path, whole: Mapping[str, Any]) -> tuple[bool, str | None]:
    """Whether a SentencePiece tokenizer begins a text with a space, and a remark where llama.cpp
    does so in other places. Raises `InputError` for other changes of the text."""
    normalizer = whole.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    cutter = whole.get("pre_tokenizer") or {}
    kinds = [step.get("type") for step in steps]
    replaced = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    if kinds in (["Replace"], ["Prepend", "Replace"]) and steps[-1] == replaced:
        harmless = cutter.get("type") == "Split" and cutter.get("pattern") == {"String": " "}
        prepends = len(steps) == 2
        if (not cutter or harmless) and (not prepends or steps[0].get("prepend") == _SPACE):
            return prepends, None
    if cutter.get("type") == "Metaspace" and not steps and not cutter.get("split", True):
        scheme = cutter.get("prepend_scheme", "always")
        return scheme != "never", _FIRST_NOTE if scheme == "first" else None
    raise InputError(
        f"The tokenizer of {folder} changes text in a way that llama.cpp is not known to share; "
        "serve this checkpoint with vLLM or transformers."
    )


def _scores(folder: Path, tokens: _Tokens, merges: list[tuple[str, ...]]) -> list[float]:
    """The score of each token of a SentencePiece vocabulary: the earlier its merge, the higher.

    llama.cpp joins any two tokens whose texts make a third, so every pair that makes a token must
    be among the merges. Raises `InputError` where that is not so.
    """
    scores = [0.0 if kind == _NORMAL else _ADDED_SCORE for kind in tokens.kinds]
    ranks: dict[str, int] = {}
    for merge in merges:
        ranks.setdefault("".join(merge), len(ranks))
    pairs = set(merges)
    normal = {text for _, text in tokens.normal()}
    for index, text in tokens.normal():
        scores[index] = -float(ranks.get(text, len(ranks)))
        for at in range(1, len(text)):
            pair = text[:at], text[at:]
            if pair not in pairs and pair[0] in normal and pair[1] in normal:
                raise InputError(
                    f"The tokenizer of {folder} does not merge {pair[0]!r} and {pair[1]!r}, though "
                    "it has their sum, and llama.cpp would; serve the folder with vLLM."
                )
    return scores


def _of_sentencepiece(folder: Path, said: Mapping[str, Any], vocabulary: int) -> GgufTokenizer:
    """The tokenizer of a folder that has only SentencePiece's own file."""
    model = read_pieces(folder / "tokenizer.model")
    added = {
        int(index): entry
        for index, entry in (said.get("added_tokens_decoder") or {}).items()
        if int(index) < vocabulary
    }
    by_id = {index: piece.text for index, piece in enumerate(model.pieces)}
    by_id |= {index: entry["content"] for index, entry in added.items()}
    if not model.bpe or max(by_id) >= vocabulary:
        raise InputError(
            f"The tokenizer.model of {folder} is not BPE, or has more tokens than its model "
            f"({vocabulary}); serve the folder with vLLM."
        )
    tokens = _Tokens.padded(by_id, vocabulary)
    scores = [_ADDED_SCORE] * vocabulary
    for index, piece in enumerate(model.pieces):
        tokens.kinds[index], scores[index] = piece.kind, piece.score
    for index, entry in added.items():
        tokens.kinds[index] = _CONTROL if entry.get("special") else _USER_DEFINED
    tokens.stripping = _strips(folder, added)
    facts = tokens.sentencepiece_facts(folder, scores, model.adds_space)
    begin = _special(said.get("bos_token"), tokens.ids) if said.get("add_bos_token", True) else None
    end = _special(said.get("eos_token"), tokens.ids) if said.get("add_eos_token") else None
    return _finished(folder, said, tokens, facts, wrapped=(begin, end), note=None)


def _wrapped(processor: Any, ids: Mapping[str, int]) -> tuple[int | None, int | None]:
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


_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
"""Fields of the model."""
_TEXT, _SCORE, _KIND = 1, 2, 3
"""Fields of a piece."""
_MODEL_TYPE = 3
"""Field of the trainer's settings; 2 is BPE."""
_ADD_SPACE = 3
"""Field of the normaliser's settings."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A token."""

    text: str
    score: float
    kind: int
    """1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 a byte; ggml's kinds too."""


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """A vocabulary."""

    pieces: tuple[Piece, ...]
    bpe: bool
    """Whether it is BPE; other kinds are cut in other ways."""
    adds_space: bool
    """Whether a text begins with a space."""


def read_pieces(path: Path) -> SentencePieceModel:
    """The model of a file. Raises `InputError` for what is none."""
    try:
        return _parsed(path.read_bytes())
    except (OSError, ValueError, IndexError, struct.error, AttributeError, TypeError) as error:
        raise InputError(f"{path} is damaged; copy it again.") from error


def _parsed(data: bytes) -> SentencePieceModel:
    pieces, bpe, adds_space = [], False, True
    for field, value in _fields(data):
        if field == _PIECES:
            parts = dict(_fields(value))
            score = struct.unpack("<f", parts.get(_SCORE, bytes(4)))[0]
            pieces.append(Piece(parts[_TEXT].decode("utf-8"), score, int(parts.get(_KIND, 1))))
        elif field == _TRAINER:
            bpe = dict(_fields(value)).get(_MODEL_TYPE, 1) == 2
        elif field == _NORMALIZER:
            adds_space = bool(dict(_fields(value)).get(_ADD_SPACE, 1))
    if not pieces:
        raise ValueError("pieces")
    return SentencePieceModel(tuple(pieces), bpe, adds_space)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol buffer message, in order: numbers, or the bytes of anything else."""
    at = 0
    while at < len(data):
        key, at = _number(data, at)
        kind = key & 7
        if kind == 0:
            number, at = _number(data, at)
            yield key >> 3, number
            continue
        size = {1: 8, 5: 4}.get(kind)
        if size is None:
            if kind != 2:
                raise ValueError("kind")
            size, at = _number(data, at)
        if at + size > len(data):
            raise ValueError("length")
        yield key >> 3, data[at : at + size]
        at += size


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A variable-length number and where it ends."""
    found = shift = 0
    while True:
        byte = data[at]
        found |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return found, at
