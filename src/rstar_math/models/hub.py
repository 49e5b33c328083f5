"""Downloads from the Hugging Face hub with its own client (`huggingface_hub`).

The client's environment variables apply: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN and
HF_HUB_OFFLINE. The client itself restarts a file after Ctrl-C. This module therefore writes large
files itself, to `blobs/HASH.rstar.incomplete`, and a later call resumes them.
"""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

from rstar_math.errors import (
    DownloadError,
    InputError,
    MissingDependencyError,
    ModelUnreachableError,
    RstarError,
    StoreError,
)
from rstar_math.files import atomic_write, open_own
from rstar_math.models.records import has_git_sha1, has_sha256
from rstar_math.progress import megabytes

_SHA256 = re.compile(r"[0-9a-f]{64}")
_BLOB = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")


def endpoint() -> str:
    """Return the address of the hub without its scheme, for example "huggingface.co"."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT).partition("://")[2]


@contextmanager
def _convert_hub_errors(repo: str, cache: Path) -> Iterator[None]:
    """Convert errors of the hub client and of the disk to errors of this package.

    `repo` and `cache` appear in the messages. The client's own warnings are not shown.
    """
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except RstarError:
        raise
    except Exception as error:
        raise _converted(repo, cache, error) from error
    finally:
        logging.set_verbosity(before)


def _converted(repo: str, cache: Path, error: Exception) -> Exception:
    """Return an error of this package for an error of the client; other errors unchanged."""
    from huggingface_hub import errors

    text = " ".join(str(error).split())[:160]
    if isinstance(error, errors.OfflineModeIsEnabled):
        return DownloadError(
            f"{repo} is not on this disk and HF_HUB_OFFLINE forbids downloads; unset it, or use a "
            "model that is on disk (rstar models list)."
        )
    if isinstance(error, errors.HFValidationError):
        return InputError(f"{repo!r} is not a valid hub repository name; give hf:ORG/NAME.")
    if isinstance(error, errors.HfHubHTTPError):
        return _http_error(repo, error)
    if isinstance(error, errors.HTTPError | errors.LocalEntryNotFoundError | TimeoutError):
        return ModelUnreachableError(
            f"The hub {endpoint()} does not answer for {repo} ({type(error).__name__}: {text}); "
            "run the same command again to resume, or correct HF_ENDPOINT."
        )
    if isinstance(error, OSError) and error.errno is not None:
        return disk_error(cache, error)
    if isinstance(error, OSError):
        return DownloadError(
            f"The download of {repo} was interrupted ({text}); run the same command again to "
            "resume."
        )
    return error


def _http_error(repo: str, error: Any) -> RstarError:
    """Return the error for a hub response with an error status."""
    from huggingface_hub import errors

    status = error.response.status_code
    url = f"{endpoint()}/{repo}"
    if isinstance(error, errors.GatedRepoError):
        return DownloadError(
            f"{repo} is gated: accept its terms at {url}, then set HF_TOKEN (or run: hf auth "
            "login)."
        )
    if isinstance(error, errors.RevisionNotFoundError | errors.RemoteEntryNotFoundError):
        return InputError(f"{url} does not have the requested revision or file; correct the name.")
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        return InputError(
            f"There is neither a folder {repo} nor a public repository {url}; correct the name, or "
            "set HF_TOKEN if the repository is private."
        )
    if status in (401, 403):
        return DownloadError(
            f"The hub refuses access to {repo} with status {status}; set HF_TOKEN to a valid token "
            "with read access."
        )
    return ModelUnreachableError(
        f"The hub {endpoint()} answers with status {status} for {repo}; try again later."
    )


def disk_error(path: Path, error: OSError) -> StoreError:
    """Return the error for a disk that is full or not writable."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(
            f"The disk of {path} is full; free some space, or set RSTAR_CACHE and HF_HOME to "
            "folders on another disk, then run the same command again to resume."
        )
    return StoreError(
        f"{path} cannot be written ({error.strerror}); set RSTAR_CACHE and HF_HOME to other "
        "folders."
    )


OnBytes = Callable[[int], None]
"""Called with the number of bytes that are on disk."""


class _CountingWriter:
    """A file wrapper that reports the file's length after each write."""

    def __init__(self, file: Any, on_bytes: OnBytes) -> None:
        self._file, self._on_bytes = file, on_bytes
        self.seek, self.tell, self.truncate = file.seek, file.tell, file.truncate

    def write(self, data: bytes) -> int:
        """Write a chunk."""
        count = int(self._file.write(data))
        self._on_bytes(self._file.tell())
        return count


class _NoProgressBar:
    """Stands in for tqdm in the hub client and shows nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> "_NoProgressBar":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


LOOKUP_TIMEOUT_S = 5.0
"""Timeout of the hub lookup for a file that also has a mirror; otherwise the client's default
applies."""
_INCOMPLETE_SUFFIX = ".rstar.incomplete"


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository."""

    name: str
    size_bytes: int
    sha256: str | None
    """None for small files, which the hub stores in git."""


@dataclass(frozen=True, slots=True)
class HubRepo:
    """A repository at one commit."""

    repo: str
    revision: str
    commit: str
    files: tuple[HubFile, ...]


def _require_client(repo: str) -> None:
    """Raise `MissingDependencyError` unless the hub client is installed."""
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"{repo} comes from the Hugging Face hub, which needs huggingface_hub; run: "
            "pip install 'rstar-math[local]'."
        ) from error


def fetch_repo(repo: str, revision: str = "main", *, timeout_s: float | None = None) -> HubRepo:
    """Return the files of a repository with their sizes and hashes.

    Raises `ModelUnreachableError` if the hub does not answer within `timeout_s`, `DownloadError` if
    it refuses, `InputError` if the repository does not exist, and `MissingDependencyError`.
    """
    _require_client(repo)
    from huggingface_hub import HfApi, constants

    limit_s = timeout_s or float(constants.HF_HUB_ETAG_TIMEOUT)
    with _convert_hub_errors(repo, hub_cache()):
        info = _call_with_timeout(
            limit_s + 3,  # DNS resolution has no timeout of its own
            lambda: HfApi().model_info(
                repo, revision=revision, timeout=limit_s, files_metadata=True
            ),
        )
    files = tuple(
        HubFile(file.rfilename, file.size or 0, _lfs_sha256(file.lfs))
        for file in info.siblings or ()
    )
    return HubRepo(info.id or repo, revision, str(info.sha), files)


def download(source: HubRepo, names: Sequence[str], on_bytes: OnBytes) -> list[Path]:
    """Return files of a repository in the client's cache, in the order of `names`.

    Missing files are downloaded, and files with a known hash are verified. Raises `DownloadError`,
    and `StoreError` if the disk is full. Bytes downloaded before an error are kept, and the same
    call resumes.
    """
    from huggingface_hub import hf_hub_download

    files = [next(file for file in source.files if file.name == name) for name in names]
    folder = _repo_folder(source.repo)
    with _convert_hub_errors(source.repo, hub_cache()):
        require_free_space(
            folder, sum(file.size_bytes - _bytes_on_disk(folder, file) for file in files)
        )
        done = 0
        for file in sorted(files, key=lambda file: file.sha256 is not None):
            if file.sha256 is not None:
                _fetch_blob(source, file, folder, _offset_callback(done, on_bytes))
            hf_hub_download(
                source.repo, file.name, revision=source.commit, tqdm_class=_NoProgressBar
            )
            done += file.size_bytes
            on_bytes(done)
        if source.revision != source.commit:
            with atomic_write(folder / "refs" / source.revision) as part:
                part.write_text(source.commit, encoding="utf-8")
        return [folder / "snapshots" / source.commit / file.name for file in files]


def cached_snapshot(repo: str, revision: str = "main") -> Path | None:
    """Return the folder of a repository's files in the client's cache; None if there is none.

    The repository name is case-insensitive.
    """
    folder = _repo_folder(repo)
    if not folder.is_dir():
        wanted = folder.name.lower()
        entries = folder.parent.iterdir() if folder.parent.is_dir() else ()
        matches = [entry for entry in entries if entry.name.lower() == wanted]
        if not matches:
            return None
        folder = matches[0]
    try:
        commit = (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    except OSError:
        commit = revision
    snapshot = folder / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def cached_repos() -> list[str]:
    """Return the model repositories in the client's cache."""
    folders = sorted(hub_cache().glob("models--*"))
    return [entry.name.removeprefix("models--").replace("--", "/") for entry in folders]


def delete_files(paths: Sequence[Path]) -> int:
    """Delete files of the client's cache and the blobs they link to. Returns the bytes freed."""
    freed = 0
    for path in paths:
        blob = path.resolve()
        if blob.is_file():
            freed += blob.stat().st_size
            blob.unlink()
        path.unlink(missing_ok=True)
    return freed


def incomplete_bytes(repo: str, sha256: str) -> int:
    """Return the size in bytes of an interrupted download of a file; 0 if there is none."""
    part = _repo_folder(repo) / "blobs" / f"{sha256}{_INCOMPLETE_SUFFIX}"
    return part.stat().st_size if part.is_file() else 0


def delete_incomplete(repo: str) -> int:
    """Delete the interrupted downloads of a repository. Returns the bytes freed."""
    return delete_files([*(_repo_folder(repo) / "blobs").glob(f"*{_INCOMPLETE_SUFFIX}")])


def verify_cached_file(path: Path, name: str) -> None:
    """Delete a damaged file of the client's cache and raise `DownloadError`.

    Files without a known hash are not verified.
    """
    digest = cached_digest(path)
    if not digest:
        return
    has_digest = has_sha256 if len(digest) == 64 else has_git_sha1
    if not has_digest(path, digest):
        done = "so it was deleted"
        try:
            delete_files([path])
        except OSError as error:
            done = f"and it cannot be deleted ({error.strerror}), so delete it"
        raise DownloadError(
            f"{path} changed on disk (its hash differs), {done}; run: rstar models pull {name}"
        )


def cached_digest(path: Path) -> str:
    """Return the hash of a file in the client's cache as the hub gave it; "" if it is not known.

    The client names a file's content by it: a large file's by its SHA-256, and a small file's by
    the SHA-1 that git has for it.
    """
    blob = path.resolve().name
    return blob if _BLOB.fullmatch(blob) else ""


def require_free_space(path: Path, size_bytes: int) -> None:
    """Raise `StoreError` if the disk of `path` has less free space than `size_bytes`."""
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free
    if free < size_bytes:
        raise StoreError(
            f"The disk of {path} has {megabytes(free)} free but {megabytes(size_bytes)} are "
            "needed; free some space, or set RSTAR_CACHE and HF_HOME to folders on another disk."
        )


def hub_cache() -> Path:
    """Return the client's cache; a path that does not exist if the client is not installed."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return Path(os.devnull) / "hub"
    return Path(constants.HF_HUB_CACHE)


def _repo_folder(repo: str) -> Path:
    """Return the folder of a repository in the client's cache."""
    return hub_cache() / f"models--{repo.replace('/', '--')}"


def _lfs_sha256(lfs: Any) -> str | None:
    """Return the SHA-256 that the hub gives for a large file; None if it gives none."""
    digest = str(lfs.sha256).lower() if lfs else ""
    return digest if _SHA256.fullmatch(digest) else None


def _offset_callback(offset: int, on_bytes: OnBytes) -> OnBytes:
    """Return a callback that adds the bytes of the files downloaded before."""
    return lambda count: on_bytes(offset + count)


def _bytes_on_disk(folder: Path, file: HubFile) -> int:
    """Return how many bytes of a file are already downloaded."""
    if file.sha256 is None:
        return 0
    if (folder / "blobs" / file.sha256).is_file():
        return file.size_bytes
    part = folder / "blobs" / f"{file.sha256}{_INCOMPLETE_SUFFIX}"
    return min(part.stat().st_size, file.size_bytes) if part.is_file() else 0


def _fetch_blob(source: HubRepo, file: HubFile, folder: Path, on_bytes: OnBytes) -> None:
    """Download a large file into the cache. Resumes an interrupted download."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    assert file.sha256 is not None
    blob = folder / "blobs" / file.sha256
    part = blob.with_name(f"{blob.name}{_INCOMPLETE_SUFFIX}")
    if blob.is_file() or file.size_bytes > constants.MAX_HTTP_DOWNLOAD_SIZE:
        return
    part.parent.mkdir(parents=True, exist_ok=True)
    if part.is_file() and part.stat().st_size > file.size_bytes:
        part.unlink()
    with open_own(part) as stream:
        resume_at = stream.tell()
        on_bytes(resume_at)
        http_get(
            hf_hub_url(source.repo, file.name, revision=source.commit),
            _CountingWriter(stream, on_bytes),
            resume_size=resume_at,
            headers=build_hf_headers(),
            expected_size=file.size_bytes,
            tqdm_class=_NoProgressBar,
        )
    if not has_sha256(part, file.sha256):
        part.unlink()
        raise DownloadError(
            f"The downloaded {file.name} of {source.repo} has an unexpected SHA-256, so it was "
            "deleted; run the same command again."
        )
    os.replace(part, blob)


def _call_with_timeout(seconds: float, function: Callable[[], Any]) -> Any:
    """Return the result of `function` or raise its exception. Raises `TimeoutError` after
    `seconds`."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((function(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    result, error = outcome[0]
    if error is not None:
        raise error
    return result
