"""Encodes frames between parent and zygote: two lengths, a JSON object, raw bytes.

Both ends use this file. A malformed frame raises `WireError`. The rest of the stream is then
meaningless: the receiver closes the connection and never tries to resynchronise.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one run. A prefix counts towards the times and the memory, not the output."""

    wall_s: float
    cpu_s: float
    memory_bytes: int
    """Address space above that of the pre-loaded interpreter."""
    output_bytes: int
    scratch_bytes: int
    """Size of the scratch folder."""
    scratch_files: int
    """Files and folders in it."""


LENGTHS = struct.Struct(">II")
MAX_HEADER_BYTES = 64 << 20
MAX_BODY_BYTES = 1 << 30
MESSAGE_CHARS = 300
"""Maximum length of a message about a failed run."""


NEEDS_SCRATCH = "needs_scratch"
"""The status in the report of a program that must run again, alone and with a scratch folder."""


class WireError(Exception):
    """Received bytes are not a valid frame."""


def encode(header: Mapping[str, object], body: bytes = b"") -> bytes:
    """One frame. The header is ASCII JSON, so lone surrogates survive. Raises `WireError` if the
    frame is too long."""
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    if len(text) > MAX_HEADER_BYTES or len(body) > MAX_BODY_BYTES:
        raise WireError(f"a frame of {len(text)} + {len(body)} bytes is too long")
    return LENGTHS.pack(len(text), len(body)) + text + body


class Decoder:
    """Splits a byte stream into frames, wherever the reads cut it."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[dict[str, Any], bytes]]:
        """The frames that these bytes complete, in order. Keeps the rest. Raises `WireError`."""
        self._buffer += data
        frames = []
        while len(self._buffer) >= LENGTHS.size:
            header_length, body_length = LENGTHS.unpack_from(self._buffer)
            if header_length > MAX_HEADER_BYTES or body_length > MAX_BODY_BYTES:
                raise WireError(f"a frame announces {header_length} + {body_length} bytes")
            header_end = LENGTHS.size + header_length
            end = header_end + body_length
            if len(self._buffer) < end:
                break
            text = bytes(self._buffer[LENGTHS.size : header_end])
            body = bytes(self._buffer[header_end:end])
            del self._buffer[:end]
            frames.append((_parse_header(text), body))
        return frames


def _parse_header(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise WireError(f"a frame header is not JSON: {e}") from e
    if not isinstance(header, dict):
        raise WireError(f"a frame header is {type(header).__name__}, not an object")
    return header
