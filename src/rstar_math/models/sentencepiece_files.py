"""SentencePiece's own model files, read without its package (format: google/sentencepiece,
sentencepiece_model.proto)."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstar_math.errors import InputError

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
