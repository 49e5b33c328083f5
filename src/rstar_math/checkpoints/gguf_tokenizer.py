"""Converts a checkpoint's tokenizer to the metadata that llama.cpp reads.

Two kinds are supported. Byte-level BPE must split text into words by a pattern that llama.cpp has a
name for. The other kind is SentencePiece BPE with byte fallback.
"""

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstar_math.checkpoints.folders import read_json_object
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
_PATTERN_NAMES = {
    (_LLAMA3, True): "llama-bpe",
    (_LLAMA3, False): "smaug-bpe",
    (_QWEN2, False): "qwen2",
    (_TEKKEN, True): "tekken",
    (_GPT4O, False): "gpt-4o",
}
"""llama.cpp's name for each (word pattern, `ignore_merges`).

With `ignore_merges`, a word that is in the vocabulary is one token regardless of the merges. The
entries are: Llama 3; Llama 3 with merges; Qwen2 and Qwen3; Mistral Nemo; GPT-4o and Phi-4.
"""
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
"""ggml's token types."""
_END_OF_TURN_TOKENS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")
_SPACE_MARK = "▁"
"""SentencePiece's character for a space."""
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_ADDED_SCORE = -1000.0
_RSTRIP_NAME = "phi-3"
"""llama.cpp strips the space after special tokens if the model name contains this text."""
_NO_RSTRIP_TOKENS = {"<unk>", "<s>", "<|endoftext|>"}
"""Special tokens of such a model that do not strip the space after them."""
_PREFIX_NOTE = (
    "With this tokenizer, llama.cpp adds a space after a special token and transformers does not; "
    "text without special tokens is tokenized identically."
)


@dataclass(frozen=True, slots=True)
class GgufTokenizer:
    """A tokenizer as metadata entries of a GGUF file."""

    metadata: dict[str, Any]
    """The entries `tokenizer.*`, and a note if llama.cpp's tokens may differ."""
    strips_right: bool
    """Whether special tokens absorb the space after them."""

    def model_name(self, name: str) -> str:
        """Return a model's name such that llama.cpp infers the value of `strips_right` from it."""
        plain = re.sub("phi-?3", "phi 3", name, flags=re.IGNORECASE)
        return f"{plain} ({_RSTRIP_NAME})" if self.strips_right else plain


def tokenizer_metadata(folder: Path, vocabulary: int) -> GgufTokenizer:
    """Return the tokenizer of a checkpoint whose model has `vocabulary` embedding rows.

    Raises `InputError` if the folder has no tokenizer, or one that llama.cpp would apply
    differently.
    """
    config = read_json_object(folder / "tokenizer_config.json")
    if not (folder / "tokenizer.json").is_file() and (folder / "tokenizer.model").is_file():
        return _from_sentencepiece(folder, config, vocabulary)
    tokenizer = read_json_object(folder / "tokenizer.json")
    model = tokenizer.get("model") or {}
    if model.get("type") != "BPE":
        raise InputError(
            f"The tokenizer of {folder} has the type {model.get('type')}, but rstar deploy "
            "supports only BPE, byte-level or with byte fallback; serve the folder with vLLM."
        )
    tokens = _Vocabulary.from_json(folder, tokenizer, vocabulary)
    merges = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    if not merges:
        raise InputError(
            f"The tokenizer of {folder} has no merges, so llama.cpp cannot use it; serve the "
            "folder with vLLM."
        )
    note = None
    if model.get("byte_fallback"):
        adds_prefix, note = _space_prefix(folder, tokenizer)
        scores = _token_scores(folder, tokens, merges)
        entries = tokens.sentencepiece_entries(folder, scores, adds_prefix)
        unknown = tokens.ids.get(str(model.get("unk_token")))
        entries |= {} if unknown is None else {"unknown_token_id": unknown}
    else:
        pattern = _word_pattern(folder, tokenizer)
        entries = {"model": "gpt2", "pre": pattern, "add_space_prefix": False}
        entries |= {"tokens": tokens.texts, "token_type": tokens.types}
        entries |= {"merges": [" ".join(merge) for merge in merges]}
    added = _added_to_every_text(tokenizer.get("post_processor"), tokens.ids)
    return _with_special_tokens(folder, config, tokens, entries, added=added, note=note)


@dataclass(slots=True)
class _Vocabulary:
    """Texts and types of tokens by id."""

    texts: list[str]
    types: list[int]
    ids: dict[str, int]
    strips_right: bool = False

    @classmethod
    def from_json(
        cls, folder: Path, tokenizer: Mapping[str, Any], vocabulary: int
    ) -> "_Vocabulary":
        """Return the tokens of a tokenizer.json.

        Added tokens without an embedding row are left out. Gemma 3 1B, for example, names an image
        token that it cannot read.
        """
        added = {
            int(entry["id"]): entry
            for entry in tokenizer.get("added_tokens", [])
            if int(entry["id"]) < vocabulary
        }
        by_id = {index: token for token, index in tokenizer["model"]["vocab"].items()}
        without_row = {
            int(entry["id"]) for entry in tokenizer.get("added_tokens", [])
        } - added.keys()
        by_id = {index: token for index, token in by_id.items() if index not in without_row}
        by_id |= {index: entry["content"] for index, entry in added.items()}
        if not by_id or max(by_id) >= vocabulary:
            raise InputError(
                f"The tokenizer of {folder} has more tokens than its model ({vocabulary}); copy "
                "the checkpoint again."
            )
        tokens = cls.padded(by_id, vocabulary)
        for index, entry in added.items():
            tokens.types[index] = _CONTROL if entry.get("special") else _USER_DEFINED
        tokens.strips_right = _strips_right(folder, added)
        return tokens

    @classmethod
    def padded(cls, by_id: Mapping[int, str], vocabulary: int) -> "_Vocabulary":
        """Return tokens by id. Ids without a token get the type "unused"."""
        types = [_NORMAL if index in by_id else _UNUSED for index in range(vocabulary)]
        texts = [by_id.get(index, f"[PAD{index}]") for index in range(vocabulary)]
        return cls(texts, types, {token: index for index, token in by_id.items()})

    def normal_tokens(self) -> Iterator[tuple[int, str]]:
        """Yield (id, text) of the normal tokens, without those of single bytes."""
        for index, (text, token_type) in enumerate(zip(self.texts, self.types, strict=True)):
            if token_type == _NORMAL and not _BYTE_TOKEN.fullmatch(text):
                yield index, text

    def sentencepiece_entries(
        self, folder: Path, scores: list[float], adds_prefix: bool
    ) -> dict[str, Any]:
        """Return the metadata entries of a SentencePiece vocabulary.

        Raises `InputError` unless all 256 bytes have a token.
        """
        types, texts = list(self.types), list(self.texts)
        bytes_found = set()
        for index, text in enumerate(texts):
            byte = _BYTE_TOKEN.fullmatch(text)
            if byte:
                types[index] = _BYTE
                bytes_found.add(byte[1])
            elif text == "<unk>":
                types[index] = _UNKNOWN
            elif types[index] == _USER_DEFINED:
                texts[index] = text.replace(
                    _SPACE_MARK, " "
                )  # llama.cpp searches the original text
        if len(bytes_found) < 256:
            raise InputError(
                f"The tokenizer of {folder} has tokens for {len(bytes_found)} bytes, but llama.cpp "
                "needs all 256; serve the folder with vLLM."
            )
        return {"model": "llama", "pre": "default", "tokens": texts, "token_type": types} | {
            "scores": scores,
            "add_space_prefix": adds_prefix,
        }


def _with_special_tokens(
    folder: Path,
    config: Mapping[str, Any],
    tokens: _Vocabulary,
    entries: Mapping[str, Any],
    *,
    added: tuple[int | None, int | None],
    note: str | None,
) -> GgufTokenizer:
    """Return a tokenizer with its special tokens and its chat template.

    `added` are the tokens put before and after every text.
    """
    end = _token_id(config.get("eos_token"), tokens.ids)
    begin = _token_id(config.get("bos_token"), tokens.ids)
    file = folder / "chat_template.jinja"
    template = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
    template = template if isinstance(template, str) else None
    all_entries = dict(entries) | {
        "eos_token_id": end,
        "bos_token_id": begin if begin is not None else end,
        "eot_token_id": _end_of_turn(folder, template, tokens.ids, end),
        "padding_token_id": _token_id(config.get("pad_token"), tokens.ids),
        "add_bos_token": added[0] is not None and added[0] == begin,
        "add_eos_token": added[1] is not None and added[1] == end,
    }
    metadata = {
        f"tokenizer.ggml.{key}": value for key, value in all_entries.items() if value is not None
    }
    metadata |= {} if template is None else {"tokenizer.chat_template": template}
    metadata |= {} if note is None else {"rstar.tokenizer.note": note}
    return GgufTokenizer(metadata, tokens.strips_right)


def _token_id(entry: Any, ids: Mapping[str, int]) -> int | None:
    """Return the id of a special token in a tokenizer configuration; None if it is unknown."""
    text = entry.get("content") if isinstance(entry, dict) else entry
    return ids.get(text) if isinstance(text, str) else None


def _end_of_turn(
    folder: Path, template: str | None, ids: Mapping[str, int], end: int | None
) -> int | None:
    """Return the token that ends a chat turn; None if it is the end-of-text token.

    It is a known token in the chat template, or another token that ends generation.
    """
    in_template = (t for t in _END_OF_TURN_TOKENS if template is not None and t in template)
    candidates = [ids[token] for token in in_template if token in ids]
    if (folder / "generation_config.json").is_file():
        eos = read_json_object(folder / "generation_config.json").get("eos_token_id")
        candidates += [int(index) for index in eos] if isinstance(eos, list) else []
    return next((index for index in candidates if index != end and index in ids.values()), None)


def _strips_right(folder: Path, added: Mapping[int, Mapping[str, Any]]) -> bool:
    """Return whether special tokens absorb the space after them, as in Phi-3.

    Raises `InputError` for other combinations, which llama.cpp cannot express.
    """
    stripping = {str(entry["content"]) for entry in added.values() if entry.get("rstrip")}
    contents = {str(entry["content"]) for entry in added.values()}
    unsupported = [e["content"] for e in added.values() if e.get("lstrip") or e.get("single_word")]
    expected = contents - _NO_RSTRIP_TOKENS
    like_phi3 = stripping == expected and contents >= _NO_RSTRIP_TOKENS | {"</s>"}
    if unsupported or (stripping and not like_phi3):
        token = unsupported[0] if unsupported else min(stripping)
        raise InputError(
            f"The token {token} of {folder} absorbs the space beside it, which llama.cpp cannot "
            "express; serve the folder with vLLM."
        )
    return bool(stripping)


def _word_pattern(folder: Path, tokenizer: Mapping[str, Any]) -> str:
    """Return llama.cpp's name for how a byte-level tokenizer splits text into words.

    Raises `InputError` if llama.cpp has no name for it.
    """
    pre_tokenizer = tokenizer.get("pre_tokenizer") or {}
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    first, last = steps[0], steps[-1]
    byte_level = last.get("type") == "ByteLevel" and not last.get("add_prefix_space")
    normalizes = (tokenizer.get("normalizer") or {"type": "NFC"}).get("type") != "NFC"
    if byte_level and not normalizes and last.get("use_regex", True):
        if len(steps) == 1:
            return "gpt-2"
        if len(steps) == 2 and first.get("type") == "Digits" and first.get("individual_digits"):
            return "smollm"
    elif byte_level and not normalizes and len(steps) == 2 and first.get("type") == "Split":
        pattern = (first.get("pattern") or {}).get("Regex", "")
        name = _PATTERN_NAMES.get((pattern, bool(tokenizer["model"].get("ignore_merges"))))
        if name is not None:
            return name
    raise InputError(
        f"The tokenizer of {folder} splits text into words by a rule that llama.cpp does not have; "
        "serve this checkpoint with vLLM or transformers."
    )


def _space_prefix(folder: Path, tokenizer: Mapping[str, Any]) -> tuple[bool, str | None]:
    """Return whether a SentencePiece tokenizer puts a space before a text, and a note.

    The note is set if llama.cpp adds the space in other places. Raises `InputError` if the
    tokenizer changes the text in another way.
    """
    normalizer = tokenizer.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    pre_tokenizer = tokenizer.get("pre_tokenizer") or {}
    splitter = pre_tokenizer.get("type")
    step_types = [step.get("type") for step in steps]
    replace_spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE_MARK}
    if step_types in (["Replace"], ["Prepend", "Replace"]) and steps[-1] == replace_spaces:
        # Splitting at spaces has no effect, because the normalizer has replaced them.
        harmless = splitter == "Split" and pre_tokenizer.get("pattern") == {"String": " "}
        prepends = len(steps) == 2
        mark_fits = not prepends or steps[0].get("prepend") == _SPACE_MARK
        if (not pre_tokenizer or harmless) and mark_fits:
            return prepends, None
    if splitter == "Metaspace" and not steps and not pre_tokenizer.get("split", True):
        scheme = pre_tokenizer.get("prepend_scheme", "always")
        return scheme != "never", _PREFIX_NOTE if scheme == "first" else None
    raise InputError(
        f"The tokenizer of {folder} changes text in a way that llama.cpp does not support; serve "
        "this checkpoint with vLLM or transformers."
    )


def _token_scores(folder: Path, tokens: _Vocabulary, merges: list[tuple[str, ...]]) -> list[float]:
    """Return the score of each token of a SentencePiece vocabulary: earlier merges score higher.

    llama.cpp merges any two tokens whose concatenation is a token. Raises `InputError` unless every
    such pair is among the merges.
    """
    scores = [0.0 if kind == _NORMAL else _ADDED_SCORE for kind in tokens.types]
    ranks: dict[str, int] = {}
    for merge in merges:
        ranks.setdefault("".join(merge), len(ranks))
    known_pairs = set(merges)
    normal = {text for _, text in tokens.normal_tokens()}
    for index, text in tokens.normal_tokens():
        scores[index] = -float(ranks.get(text, len(ranks)))
        for cut in range(1, len(text)):
            pair = text[:cut], text[cut:]
            if pair not in known_pairs and pair[0] in normal and pair[1] in normal:
                raise InputError(
                    f"The tokenizer of {folder} does not merge {pair[0]!r} and {pair[1]!r} into "
                    "the token of both, but llama.cpp would; serve the folder with vLLM."
                )
    return scores


def _from_sentencepiece(folder: Path, config: Mapping[str, Any], vocabulary: int) -> GgufTokenizer:
    """Return the tokenizer of a folder that has only SentencePiece's own file."""
    model = read_sentencepiece(folder / "tokenizer.model")
    added = {
        int(index): entry
        for index, entry in (config.get("added_tokens_decoder") or {}).items()
        if int(index) < vocabulary
    }
    by_id = {index: piece.text for index, piece in enumerate(model.pieces)}
    by_id |= {index: entry["content"] for index, entry in added.items()}
    if not model.is_bpe or max(by_id) >= vocabulary:
        raise InputError(
            f"The tokenizer.model of {folder} is not BPE, or has more tokens than its model "
            f"({vocabulary}); serve the folder with vLLM."
        )
    tokens = _Vocabulary.padded(by_id, vocabulary)
    scores = [_ADDED_SCORE] * vocabulary
    for index, piece in enumerate(model.pieces):
        tokens.types[index], scores[index] = piece.type, piece.score
    for index, entry in added.items():
        tokens.types[index] = _CONTROL if entry.get("special") else _USER_DEFINED
    tokens.strips_right = _strips_right(folder, added)
    entries = tokens.sentencepiece_entries(folder, scores, model.adds_prefix)
    begin = end = None
    if config.get("add_bos_token", True):
        begin = _token_id(config.get("bos_token"), tokens.ids)
    if config.get("add_eos_token"):
        end = _token_id(config.get("eos_token"), tokens.ids)
    return _with_special_tokens(folder, config, tokens, entries, added=(begin, end), note=None)


def _added_to_every_text(processor: Any, ids: Mapping[str, int]) -> tuple[int | None, int | None]:
    """Return the tokens that a post-processor puts before and after every text."""
    steps = processor.get("processors", [processor]) if isinstance(processor, dict) else []
    for step in steps:
        if step.get("type") != "TemplateProcessing":
            continue
        pieces = [next(iter(piece.items())) for piece in step.get("single", [])]
        text_positions = [at for at, (kind, _) in enumerate(pieces) if kind == "Sequence"]
        special = [
            (at, ids.get(str(entry.get("id"))))
            for at, (kind, entry) in enumerate(pieces)
            if kind == "SpecialToken"
        ]
        if not text_positions:
            return None, None
        before = next((index for at, index in special if at < text_positions[0]), None)
        return before, next((index for at, index in special if at > text_positions[0]), None)
    return None, None


_PIECES_FIELD, _TRAINER_FIELD, _NORMALIZER_FIELD = 1, 2, 3
"""Field numbers of SentencePiece's model message."""
_TEXT_FIELD, _SCORE_FIELD, _TYPE_FIELD = 1, 2, 3
"""Field numbers of a piece."""
_MODEL_TYPE_FIELD = 3
"""Field number of the trainer's settings; the value 2 means BPE."""
_ADD_PREFIX_FIELD = 3
"""Field number of the normaliser's settings."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A token of a SentencePiece model."""

    text: str
    score: float
    type: int
    """1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; as in ggml."""


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """The vocabulary of a SentencePiece model."""

    pieces: tuple[Piece, ...]
    is_bpe: bool
    """False for other model types, which tokenize differently."""
    adds_prefix: bool
    """Whether the tokenizer puts a space before a text."""


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Return the model in a SentencePiece file. Raises `InputError` for a damaged file."""
    try:
        return _parse_sentencepiece(path.read_bytes())
    except (OSError, ValueError, IndexError, struct.error, AttributeError, TypeError) as error:
        raise InputError(f"{path} is damaged; copy it again.") from error


def _parse_sentencepiece(data: bytes) -> SentencePieceModel:
    pieces, is_bpe, adds_prefix = [], False, True
    for number, value in _protobuf_fields(data):
        if number == _PIECES_FIELD:
            fields = dict(_protobuf_fields(value))
            score = struct.unpack("<f", fields.get(_SCORE_FIELD, bytes(4)))[0]
            text = fields[_TEXT_FIELD].decode("utf-8")
            pieces.append(Piece(text, score, int(fields.get(_TYPE_FIELD, 1))))
        elif number == _TRAINER_FIELD:
            is_bpe = dict(_protobuf_fields(value)).get(_MODEL_TYPE_FIELD, 1) == 2
        elif number == _NORMALIZER_FIELD:
            adds_prefix = bool(dict(_protobuf_fields(value)).get(_ADD_PREFIX_FIELD, 1))
    if not pieces:
        raise ValueError("pieces")
    return SentencePieceModel(tuple(pieces), is_bpe, adds_prefix)


def _protobuf_fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the (field number, value) pairs of a protocol buffer message, in order.

    Varints are yielded as integers, all other values as bytes.
    """
    offset = 0
    while offset < len(data):
        key, offset = _varint(data, offset)
        wire_type = key & 7
        if wire_type == 0:
            value, offset = _varint(data, offset)
            yield key >> 3, value
            continue
        size = {1: 8, 5: 4}.get(wire_type)
        if size is None:
            if wire_type != 2:
                raise ValueError("wire type")
            size, offset = _varint(data, offset)
        if offset + size > len(data):
            raise ValueError("length")
        yield key >> 3, data[offset : offset + size]
        offset += size


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    """Return a variable-length integer and the offset of its end."""
    value = shift = 0
    while True:
        byte = data[offset]
        value |= (byte & 127) << shift
        offset, shift = offset + 1, shift + 7
        if byte < 128:
            return value, offset
