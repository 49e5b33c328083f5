"""Tokenizers as llama.cpp reads them: from either file, with their special tokens; those that it
would read differently are refused."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rstar_math.checkpoints.gguf_export import write_gguf
from rstar_math.checkpoints.gguf_tokenizer import read_sentencepiece, tokenizer_metadata
from rstar_math.errors import InputError
from tests.integration.training.families import TEXTS, save_tiny, tiny_tokenizer
from tests.integration.training.test_families import served, tokens_of

ROOM = 1000


def saved(folder: Path, kind: str) -> Path:
    """A tiny tokenizer in a folder."""
    tiny_tokenizer(kind).save_pretrained(folder)
    return folder


def facts_of(folder: Path) -> dict[str, Any]:
    prefix = "tokenizer.ggml."
    found = tokenizer_metadata(folder, ROOM).metadata
    return {key.removeprefix(prefix): value for key, value in found.items()}


def varint(number: int) -> bytes:
    found = b""
    while number > 127:
        found, number = found + bytes([number & 127 | 128]), number >> 7
    return found + bytes([number])


def block(field: int, data: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(data)) + data


def as_sentencepiece(folder: Path, *, model_type: int = 2) -> bytes:
    """What SentencePiece's own file would be for the tokenizer.json of a folder."""
    facts = facts_of(folder)
    found = b""
    rows = zip(facts["tokens"], facts["scores"], facts["token_type"], strict=True)
    for text, score, kind in rows:
        if not text.startswith("[PAD"):
            piece = block(1, text.encode()) + b"\x15" + struct.pack("<f", score)
            found += block(1, piece + b"\x18" + bytes([kind]))
    return found + block(2, b"\x18" + bytes([model_type])) + block(3, b"\x18\x01")


def test_sentencepiece_s_own_file_gives_what_the_other_gives(tmp_path: Path) -> None:
    policy = save_tiny(tmp_path / "policy", "llama-spm")
    write_gguf(policy, tmp_path / "one.gguf", kind="f32")
    (policy / "tokenizer.model").write_bytes(as_sentencepiece(policy))
    (policy / "tokenizer.json").unlink()
    write_gguf(policy, tmp_path / "other.gguf", kind="f32")
    found = []
    for name in ("one", "other"):
        with served(tmp_path / f"{name}.gguf") as post:
            found.append([tokens_of(post, text) for text in TEXTS])
    assert found[0] == found[1]
    assert found[0][0][0] == 1, "the begin token"


def test_a_damaged_or_foreign_sentencepiece_file_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "words", "prepend")
    whole, unigram = as_sentencepiece(folder), as_sentencepiece(folder, model_type=1)
    (folder / "tokenizer.json").unlink()
    for data in (whole[:-3], b"", b"\xff" * 40, unigram):
        (folder / "tokenizer.model").write_bytes(data)
        with pytest.raises(InputError, match=r"damaged|not BPE"):
            tokenizer_metadata(folder, ROOM)
    (folder / "tokenizer.model").write_bytes(whole)
    assert len(read_sentencepiece(folder / "tokenizer.model").pieces) > 256
    with pytest.raises(InputError, match="more tokens"):
        tokenizer_metadata(folder, 300)


def merges_fewer(told: dict[str, Any]) -> None:
    del told["model"]["merges"][-1]


def bytes_fewer(told: dict[str, Any]) -> None:
    vocab = told["model"]["vocab"]
    vocab["byte"] = vocab.pop("<0x41>")


def swallowing(told: dict[str, Any]) -> None:
    told["added_tokens"][0]["rstrip"] = True


def lowercased(told: dict[str, Any]) -> None:
    told["normalizer"] = {"type": "Lowercase"}


def unigram(told: dict[str, Any]) -> None:
    told["model"] = {"type": "Unigram", "vocab": []}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (merges_fewer, "does not merge"),
        (bytes_fewer, "255 bytes"),
        (swallowing, "absorbs"),
        (lowercased, "changes text"),
        (unigram, "Unigram"),
    ],
)
def test_what_llama_cpp_would_read_differently_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], match: str
) -> None:
    file = saved(tmp_path / "words", "prepend") / "tokenizer.json"
    told = json.loads(file.read_text())
    change(told)
    file.write_text(json.dumps(told))
    with pytest.raises(InputError, match=match):
        tokenizer_metadata(file.parent, ROOM)


def test_merges_that_are_passed_over_have_a_name_of_their_own(tmp_path: Path) -> None:
    folder = saved(tmp_path / "words", "llama3")
    assert facts_of(folder)["pre"] == "llama-bpe"
    told = json.loads((folder / "tokenizer.json").read_text())
    told["model"]["ignore_merges"] = False
    (folder / "tokenizer.json").write_text(json.dumps(told))
    assert facts_of(folder)["pre"] == "smaug-bpe"


def test_the_end_of_a_turn_is_named_where_it_is_not_the_end_of_text(tmp_path: Path) -> None:
    folder = saved(tmp_path / "words", "phi3")
    ids = {text: index for index, text in enumerate(facts_of(folder)["tokens"])}
    assert "eot_token_id" not in facts_of(folder)
    (folder / "chat_template.jinja").write_text("{{ messages }}<|end|>")
    assert facts_of(folder)["eot_token_id"] == ids["<|end|>"]
    (folder / "chat_template.jinja").unlink()
    said = {"eos_token_id": [ids["</s>"], ids["<|endoftext|>"]]}
    (folder / "generation_config.json").write_text(json.dumps(said))
    assert facts_of(folder)["eot_token_id"] == ids["<|endoftext|>"]


def test_the_name_tells_llama_cpp_whether_special_tokens_swallow_spaces(tmp_path: Path) -> None:
    plain = tokenizer_metadata(saved(tmp_path / "plain", "prepend"), ROOM)
    swallows = tokenizer_metadata(saved(tmp_path / "phi", "phi3"), ROOM)
    assert "phi-3" in swallows.model_name("tuned")
    for name in ("my-Phi-3-mini", "phi3", "tuned"):
        found = plain.model_name(name).lower()
        assert "phi-3" not in found
        assert "phi3" not in found


def test_added_tokens_that_the_model_has_no_rows_for_are_left_out(tmp_path: Path) -> None:
    folder = saved(tmp_path / "words", "gemma")
    room = len(tiny_tokenizer("gemma")) - 1
    facts = tokenizer_metadata(folder, room).metadata
    assert len(facts["tokenizer.ggml.tokens"]) == room
    assert "<mark>" not in facts["tokenizer.ggml.tokens"]


def test_where_spaces_differ_after_special_tokens_a_note_says_so(tmp_path: Path) -> None:
    first = tokenizer_metadata(saved(tmp_path / "first", "metaspace"), ROOM).metadata
    assert "special token" in first["rstar.tokenizer.note"]
    shutil.rmtree(tmp_path / "first")
    always = tokenizer_metadata(saved(tmp_path / "first", "prepend"), ROOM).metadata
    assert "rstar.tokenizer.note" not in always
