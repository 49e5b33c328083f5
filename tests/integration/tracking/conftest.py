"""A folder of its own for what trackers write, and no settings of the person who runs the tests."""

import os
from pathlib import Path

import pytest

SECRET = "a-planted-value-71"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a secret in the environment that no file may hold."""
    for name in os.environ:
        if name.startswith(("MLFLOW_", "WANDB_", "TENSORBOARD_", "TRACKIO_")):
            monkeypatch.delenv(name)
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(folder / "trackio"))
    monkeypatch.setenv("MY_SERVICE_TOKEN", SECRET)
    return folder
