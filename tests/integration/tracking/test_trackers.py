"""Trackers write what they are given, without secrets, and never stop what they record."""

import json
import subprocess
import sys
from importlib.util import find_spec
from math import inf, nan
from pathlib import Path

import pytest

from rstar_math.errors import MissingDependencyError
from rstar_math.redaction import REDACTED, find_secrets, redact
from rstar_math.tracking import TRACKERS, TrackedRun, open_trackers
from tests.integration.tracking.conftest import SECRET
from tests.integration.tracking.readers import files_with, read_mlflow, read_tensorboard

CONFIG = {
    "model": {"url": f"http://me:{SECRET}@host/v1", "api_key_env": "OTHER", "max_tokens": 5},
    "search": {"note": f"Bearer {SECRET}", "api_key": "abc", "token_budget": 7},
    "servers": {"args": ["--api-key", SECRET]},
}
INSTALLED = [name for name in TRACKERS if find_spec(name) is not None]
"""The development extra brings TensorBoard and MLflow; the others are tested where they are."""


def test_the_development_environment_has_the_trackers_that_are_read_back() -> None:
    assert {"tensorboard", "mlflow"} <= set(INSTALLED)


def record(name: str, run: str = "evolution", steps: int = 3) -> list[str]:
    """Record a few figures; the warnings."""
    warnings: list[str] = []
    tracked = TrackedRun((name,), run)
    with open_trackers(tracked, CONFIG, on_warning=warnings.append) as trackers:
        for step in range(steps):
            trackers.log({"sc@8/accuracy": step / 2, "unknown": None, "n": nan, "i": inf}, step)
    return warnings


def test_tensorboard_reads_what_was_recorded(place: Path) -> None:
    assert record("tensorboard") == []
    series, texts = read_tensorboard(place / "runs" / "evolution")
    assert series == {"sc_8/accuracy": [(0, 0.0), (1, 0.5), (2, 1.0)]}
    assert texts["config/search.token_budget"] == "7"


def test_mlflow_reads_what_was_recorded_and_knows_the_parent(place: Path) -> None:
    assert record("mlflow") == []
    assert record("mlflow", "evolution/round-1/policy") == []
    series, params, parent = read_mlflow("evolution/round-1/policy")
    assert series == {"sc_8/accuracy": [(0, 0.0), (1, 0.5), (2, 1.0)]}
    assert (params["model.max_tokens"], params["search.api_key"]) == ("5", REDACTED)
    assert parent == "evolution"
    assert read_mlflow("evolution")[2] is None


def test_a_run_of_the_same_name_continues(place: Path) -> None:
    assert record("mlflow", steps=1) == record("mlflow", steps=2) == []
    assert len(read_mlflow("evolution")[0]["sc_8/accuracy"]) == 3


def test_no_file_holds_a_secret_and_stdout_stays_free(place: Path) -> None:
    """A process of its own, because Trackio reads its folder when it is imported."""
    code = (
        "from tests.integration.tracking.test_trackers import INSTALLED, record\n"
        "for name in INSTALLED: assert record(name) == []\n"
        "print('{}')"
    )
    root = Path(__file__).parents[3]
    paths = f"import sys; sys.path[:0] = [{str(root)!r}, {str(root / 'src')!r}]\n"
    ended = subprocess.run([sys.executable, "-c", paths + code], capture_output=True, check=True)
    assert json.loads(ended.stdout) == {}
    places = {"tensorboard": "runs", "mlflow": "mlflow.db"}
    written = {path.name for path in place.iterdir()}
    assert {places.get(name, name) for name in INSTALLED} <= written
    assert files_with(place, SECRET) == []


def test_a_tracker_that_is_not_installed_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rstar_math.tracking.find_spec", lambda name: None)
    with (
        pytest.raises(MissingDependencyError, match=r"pip install 'rstar-math\[mlflow\]'"),
        open_trackers(TrackedRun(("mlflow",), "x"), {}),
    ):
        pytest.fail("opened")


def test_a_server_that_is_away_warns_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    (warning,) = record("mlflow")
    assert "mlflow" in warning
    assert SECRET not in warning


LIMITED = """
import resource, sys
from rstar_math.tracking import TrackedRun, open_trackers
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
warnings = []
run = TrackedRun(("tensorboard",), "full")
with open_trackers(run, {}, on_warning=warnings.append) as trackers:
    for step in range(200):
        trackers.log({"accuracy": step}, step)
print(len(warnings), warnings)
"""
"""The size of files is limited, which is the path through the code of a full disk."""


def test_a_full_disk_warns_once(place: Path) -> None:
    root = Path(__file__).parents[3] / "src"
    code = f"import sys; sys.path.insert(0, {str(root)!r})\n{LIMITED}"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("1 ")
    assert "Traceback" not in ended.stderr


def test_secrets_are_found_and_ordinary_words_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_PASSWORD", "correct-horse")
    assert find_secrets("token=hf_" + "a" * 34)
    assert find_secrets("-----BEGIN RSA PRIVATE KEY-----")
    assert find_secrets("say correct-horse")
    assert not find_secrets("The key to x = 3 is the token <step>; see http://host:80/v1.")
    kept = {"token_budget": "7", "max_tokens": "3", "api_key_env": "OPENAI_API_KEY", "key": ""}
    assert redact(kept) == kept
    assert redact({"hf_token": "x", "a": ["correct-horse 1"]}) == {
        "hf_token": REDACTED,
        "a": [f"{REDACTED} 1"],
    }
