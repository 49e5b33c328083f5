"""What is no run is said to be none, and left as it is."""

from pathlib import Path

import pytest

from rstar_math.errors import ConfigError, InputError, StoreError
from rstar_math.evolution.store import RunStore


def test_a_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a folder, and a run is a file"):
        RunStore.read(tmp_path)
    with pytest.raises(StoreError, match="is a folder, and a run is a file"):
        RunStore.open(tmp_path, {})


def test_another_file_is_no_run_and_stays(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("some notes, long enough to be no header of a database file" * 20)
    before = other.read_bytes()
    with pytest.raises(StoreError, match=r"notes\.txt is not a run of rstar-math"):
        RunStore.read(other)
    with pytest.raises(StoreError, match=r"notes\.txt is not a run of rstar-math"):
        RunStore.open(other, {})
    assert other.read_bytes() == before
    with pytest.raises(InputError, match="There is no run"):
        RunStore.read(tmp_path / "nowhere.rstar")


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({"search.candidates": 8}, {"search.candidates": 2}, "--set search.candidates=8, or"),
        ({"policy.prompt": "trained"}, {"policy.prompt": "few-shot"}, "policy.prompt=trained, or"),
        ({}, {"search.tokens": 5}, "leave search.tokens out, or"),
        ({"guided": True}, {"guided": False}, "change it back, or"),
    ],
)
def test_the_way_back_can_be_typed(
    tmp_path: Path, before: dict[str, object], now: dict[str, object], told: str
) -> None:
    RunStore.open(tmp_path / "run.rstar", before).close()
    with pytest.raises(ConfigError, match=told):
        RunStore.open(tmp_path / "run.rstar", now)
