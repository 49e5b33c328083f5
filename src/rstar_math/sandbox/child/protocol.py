"""Frames between parent and zygote: two lengths, a JSON object, raw bytes.

Both ends use this file. A frame that breaks the rules raises `WireError`, after which the stream
has no meaning any more and the connection is given up: there is no resynchronising.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds and bytes. A prefix counts towards the times and the memory, not the output."""

    wall_s: float
    cpu_s: float
    memory: int
    """Address space above what the warm interpreter takes."""
    output: int


LENGTHS = struct.Struct(">II")
MAX_HEADER = 64 << 20
MAX_BODY = 1 << 30


class WireError(Exception):
    """Bytes that are not a frame."""


def encode(header: Mapping[str, object], body: bytes = b"") -> bytes:
    """One frame. The header is ASCII JSON, so lone surrogates survive the way."""
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    if len(text) > MAX_HEADER or len(body) > MAX_BODY:
        raise WireError(f"frame of {len(text)} + {len(body)} bytes is too long")
    return LENGTHS.pack(len(text), len(body)) + text + body


class Decoder:
    """Cuts a byte stream into frames, however the bytes arrive."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[tuple[dict[str, Any], bytes]]:
        """The frames that these bytes complete, in order; keeps the rest. Raises `WireError`."""
        self._bytes += data
        frames = []
        while len(self._bytes) >= LENGTHS.size:
            head, body = LENGTHS.unpack_from(self._bytes)
            if head > MAX_HEADER or body > MAX_BODY:
                raise WireError(f"frame announces {head} + {body} bytes")
            end = LENGTHS.size + head + body
            if len(self._bytes) < end:
                break
            text = bytes(self._bytes[LENGTHS.size : LENGTHS.size + head])
            raw = bytes(self._bytes[LENGTHS.size + head : end])
            del self._bytes[:end]
            frames.append((_header(text), raw))
        return frames


def _header(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise WireError(f"frame without a JSON header: {e}") from e
    if not isinstance(header, dict):
        raise WireError(f"frame header is {type(header).__name__}, not an object")
    return header
