"""Places of their own for what is downloaded, and a hub to download it from."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.models.hub_server import Hub, serving_hub

CODE = [sys.executable, "-m", "rstar_math.cli"]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the caches of this process and of those it starts; pip finds only what is in
    `wheels`, and no hub answers."""
    from huggingface_hub import constants

    home = tmp_path / "home"
    (tmp_path / "wheels").mkdir()
    environment = {
        "RSTAR_CACHE": str(tmp_path / "cache"),
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path / "wheels"),
        "PIP_CONFIG_FILE": os.devnull,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    _point_at("http://127.0.0.1:1", monkeypatch)
    return tmp_path


@pytest.fixture
def hub(places: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub without repositories, which this process and those it starts ask."""
    with serving_hub({}) as served:
        _point_at(served.url, monkeypatch)
        yield served


def _point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def table(places: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that puts a table of models in the place of the package's."""

    def write(text: str) -> None:
        path = places / "models.toml"
        path.write_text(text)
        monkeypatch.setenv("RSTAR_CATALOGUE", str(path))

    return write
