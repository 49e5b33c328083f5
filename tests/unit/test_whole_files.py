"""Files that appear whole or not at all."""

import os
from pathlib import Path

import pytest

from rstar_math.files import atomic_write


def test_a_file_takes_its_place_at_the_end_with_the_permissions_of_any_new_file(
    tmp_path: Path,
) -> None:
    target, other = tmp_path / "new" / "a.txt", tmp_path / "other.txt"
    with atomic_write(target) as part:
        part.write_text("new")
        assert not target.exists()
    other.write_text("")
    assert target.read_text() == "new"
    assert target.stat().st_mode == other.stat().st_mode
    assert os.listdir(target.parent) == ["a.txt"]


def test_what_fails_leaves_the_older_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def stopped_halfway() -> None:
        with atomic_write(target) as part:
            part.write_text("half of")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped_halfway()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]
