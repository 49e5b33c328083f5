"""The model that is used when none is named."""

from pathlib import Path

import pytest

import rstar_math
from rstar_math.config import LOCAL
from rstar_math.config.sections import TRAINED
from rstar_math.models import default
from rstar_math.models.names import CatalogueModel


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(default.VARIABLE)


def downloaded(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let only these models of the catalogue be on disk."""

    def file(model: CatalogueModel) -> Path | None:
        return Path(model.file) if model.name in names else None

    monkeypatch.setattr(default, "catalogue_file", file)


def test_the_best_model_on_disk_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    downloaded(monkeypatch)
    assert rstar_math.load_config().model.url == TRAINED
    assert rstar_math.load_config().policy.prompt == "trained", "with its preset"
    downloaded(monkeypatch, "qwen2.5-coder-0.5b")
    assert rstar_math.load_config().model.url == "qwen2.5-coder-0.5b"
    downloaded(monkeypatch, "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b")
    assert rstar_math.load_config().model.url == "qwen2.5-coder-1.5b"


def test_whoever_names_a_model_gets_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    downloaded(monkeypatch, "qwen2.5-coder-1.5b")
    assert rstar_math.load_config("laptop").model.url == LOCAL
    assert rstar_math.load_config(model="mine.gguf").model.url == "mine.gguf"
    assert rstar_math.load_config(None, ["model.url=mine.gguf"]).model.url == "mine.gguf"
    file = tmp_path / "mine.toml"
    file.write_text("[search]\nrollouts = 3\n")
    assert rstar_math.load_config(str(file)).model.url == "qwen2.5-coder-1.5b"
    file.write_text('[model]\nurl = "trained"\n')
    assert rstar_math.load_config(str(file)).model.url == TRAINED
    monkeypatch.setenv(default.VARIABLE, "http://h/v1")
    assert rstar_math.load_config().model.url == "http://h/v1"
    assert rstar_math.load_config(model="mine.gguf").model.url == "mine.gguf"
