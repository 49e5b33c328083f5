"""GGUF and safetensors files that are cut, changed or hostile: one sentence, little memory."""

import json
import random
import struct
import tracemalloc
from pathlib import Path

import pytest

from rstar_math.checkpoints.tensors import WeightFiles, read_header
from rstar_math.errors import InputError

STRING, ARRAY, U32 = 8, 9, 4


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def gguf(
    entries: list[bytes], tensors: list[tuple[str, tuple[int, ...], int, int]], data: int = 64
) -> bytes:
    table = b"".join(
        text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        for name, shape, kind, offset in tensors
    )
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries)) + b"".join(entries) + table
    return head.ljust(-(-len(head) // 32) * 32, b"\0") + b"\1" * data


GOOD = gguf(
    [
        entry("general.architecture", STRING, text("llama")),
        entry("general.alignment", U32, struct.pack("<I", 32)),
        entry("tokens", ARRAY, struct.pack("<IQ", STRING, 2) + text("a") + text("b")),
    ],
    [("output_norm.weight", (4,), 0, 0), ("blk.0", (4, 2), 0, 32)],
)


def test_the_whole_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(GOOD)
    header = read_header(path)
    assert header.architecture == "llama"
    assert header.metadata["tokens"] == ["a", "b"]
    assert header.tensors["blk.0"].shape == (4, 2)
    assert header.fingerprint()


def nested(depth: int) -> bytes:
    return struct.pack("<IQ", ARRAY, 1) * depth + struct.pack("<IQ", U32, 0)


HOSTILE = {
    "alignment 0": gguf([entry("general.alignment", U32, struct.pack("<I", 0))], []),
    "alignment as text": gguf([entry("general.alignment", STRING, text("x"))], []),
    "alignment as a list": gguf(
        [entry("general.alignment", ARRAY, struct.pack("<IQ", U32, 0))], []
    ),
    "nested arrays": gguf([entry("a", ARRAY, nested(100_000))], []),
    "many entries": b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63),
    "many tensors": b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0),
    "a long string": gguf([struct.pack("<Q", 2**62)], []),
    "a huge tensor": gguf([], [("output_norm.weight", (2**40, 2**20), 0, 0)]),
    "an offset beyond the end": gguf([], [("a", (4,), 0, 2**60)]),
    "an unknown type": gguf([entry("a", 77, b"")], []),
    "not UTF-8": gguf([struct.pack("<Q", 2) + b"\xff\xfe" + struct.pack("<II", U32, 1)], []),
    "empty": b"",
    "another format": b"PK\3\4" + b"\0" * 100,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_header_is_one_sentence(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(HOSTILE[kind])
    tracemalloc.start()
    with pytest.raises(InputError) as told:
        read_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(told.value)
    assert peak < 64 << 20


def test_any_change_of_a_byte_is_read_or_refused(tmp_path: Path) -> None:
    rng = random.Random(0)
    path = tmp_path / "m.gguf"
    for _ in range(3_000):
        data = bytearray(GOOD[: rng.randrange(len(GOOD))] if rng.random() < 0.3 else GOOD)
        for _ in range(rng.randrange(1, 4)):
            if data:
                data[rng.randrange(len(data))] = rng.choice([0, 1, 9, 127, 128, 255])
        path.write_bytes(bytes(data))
        try:
            read_header(path).fingerprint()
        except InputError:
            continue


TABLES: dict[str, object] = {
    "negative offset": {"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}},
    "negative shape": {"a": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}},
    "offset beyond the end": {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 2**62]}},
    "infinite shape": {"a": {"dtype": "F32", "shape": [float("inf")], "data_offsets": [0, 8]}},
    "other kinds": {"a": {"dtype": ["F32"], "shape": "2", "data_offsets": None}},
    "no table": [1, 2],
    "text": "x",
    "unknown dtype": {"a": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}},
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_hostile_table_of_safetensors_is_one_sentence(kind: str, tmp_path: Path) -> None:
    table = json.dumps(TABLES[kind]).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(table)) + table + b"\0" * 8)
    with pytest.raises(InputError, match="is damaged or incomplete"):
        WeightFiles(tmp_path)


@pytest.mark.parametrize(
    "data", [b"", b"\xff" * 8, struct.pack("<Q", 100_000) + b"[" * 100_000, b"\5\0\0\0\0\0\0\0{"]
)
def test_a_damaged_file_of_safetensors_is_one_sentence(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(InputError, match="is damaged or incomplete"):
        WeightFiles(tmp_path)
