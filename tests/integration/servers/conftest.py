"""A `vllm` that is none, and what it left running."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rstar_math.config.sections import ServersConfig

FAKE = Path(__file__).with_name("fake_vllm.py")


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def ended_within(pids: list[int], patience_s: float = 20.0) -> bool:
    """Whether all have ended, at the latest after some time: a process that is killed is not gone
    at once."""
    until = time.monotonic() + patience_s
    while any(map(is_running, pids)):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServersConfig:
    """How the fake is started; its logs are in the test's folder."""
    monkeypatch.setenv("FAKE_PIDS", str(tmp_path / "pids"))
    monkeypatch.delenv("FAKE_FAULT", raising=False)
    source = Path(__file__).resolve().parents[3] / "src"
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")])
    )
    return ServersConfig(
        vllm_command=(sys.executable, str(FAKE)),
        startup_timeout_s=60.0,
        log_dir=str(tmp_path / "logs"),
    )


@pytest.fixture
def begun(tmp_path: Path) -> Callable[[], list[int]]:
    """The processes that the fakes of a test have begun: three each."""

    def read() -> list[int]:
        return [int(line) for line in (tmp_path / "pids").read_text().split()]

    return read
