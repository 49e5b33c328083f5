"""Downloads from the Hugging Face hub with its own client (`huggingface_hub`).

The variables of the client are honoured: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN,
HF_HUB_OFFLINE. The client itself begins a file anew after Ctrl-C, so a large file is written here,
piece by piece, to `blobs/HASH.rstar.incomplete`; a later call goes on where it ends.
"""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest
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
from rstar_math.files import atomic_write
from rstar_math.progress import megabytes


def endpoint() -> str:
    """The address of the hub without its scheme, as in "huggingface.co"."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT).partition("://")[2]


@contextmanager
def describe_error(repo: str, cache: Path) -> Iterator[None]:
    """A block that talks to the hub about a repository and writes into `cache`: what goes wrong
    becomes one sentence, and the client's own warnings are not shown."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except RstarError:
        raise
    except Exception as error:
        raise _said(repo, cache, error) from error
    finally:
        logging.set_verbosity(before)


def _said(repo: str, cache: Path, error: Exception) -> Exception:
    """An error of the client as one of this package; itself, if it is not one of the client's."""
    from huggingface_hub import errors

    first = " ".join(str(error).split())[:160]
    if isinstance(error, errors.OfflineModeIsEnabled):
        return DownloadError(
            f"{repo} is not on this disk and HF_HUB_OFFLINE forbids downloads; unset it, or give "
            "a model that is here (rstar models list)."
        )
    if isinstance(error, errors.HFValidationError):
        return InputError(f"{repo!r} is no name of a hub repository; give hf:ORG/NAME.")
    if isinstance(error, errors.HfHubHTTPError):
        return _refused(repo, error)
    if isinstance(error, errors.HTTPError | errors.LocalEntryNotFoundError | TimeoutError):
        return ModelUnreachableError(
            f"The hub {endpoint()} does not answer for {repo} ({type(error).__name__}: {first}); "
            "type the same again to go on, or correct HF_ENDPOINT."
        )
    if isinstance(error, OSError) and error.errno is not None:
        return disk_error(cache, error)
    if isinstance(error, OSError):
        return DownloadError(
            f"The download of {repo} broke off ({first}); type the same again to go on."
        )
    return error


def _refused(repo: str, error: Any) -> RstarError:
    """What the hub's answer with an error status means."""
    from huggingface_hub import errors

    status = error.response.status_code
    where = f"{endpoint()}/{repo}"
    if isinstance(error, errors.GatedRepoError):
        return DownloadError(
            f"{repo} is gated: accept its terms at {where}, then set HF_TOKEN (or type: hf auth "
            "login)."
        )
    if isinstance(error, errors.RevisionNotFoundError | errors.RemoteEntryNotFoundError):
        return InputError(f"{where} has not the revision or file asked for; correct the name.")
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        return InputError(
            f"There is neither a folder {repo} nor a public repository {where}; correct the name, "
            "or set HF_TOKEN if it is private."
        )
    if status in (401, 403):
        return DownloadError(
            f"The hub refuses {repo} with status {status}; set HF_TOKEN to a valid token that may "
            "read it."
        )
    return ModelUnreachableError(
        f"The hub {endpoint()} answers with status {status} for {repo}; type the same again later."
    )


def disk_error(place: Path, error: OSError) -> StoreError:
    """The sentence for a disk that is full or cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(
            f"The disk of {place} is full; free some space or name a folder on another disk in "
            "RSTAR_CACHE and HF_HOME, then type the same again to go on."
        )
    return StoreError(
        f"{place} cannot be written ({error.strerror}); name another folder in RSTAR_CACHE and "
        "HF_HOME."
    )


OnBytes = Callable[[int], None]
"""Called with the number of bytes that are on the disk."""


class CountingWriter:
    """A file that tells how long it is after each piece."""

    def __init__(self, file: Any, on_bytes: OnBytes) -> None:
        self._file, self._on_bytes = file, on_bytes
        self.seek, self.tell, self.truncate = file.seek, file.tell, file.truncate

    def write(self, data: bytes) -> int:
        """Write a piece."""
        count = int(self._file.write(data))
        self._on_bytes(self._file.tell())
        return count


class Silent:
    """A bar that is not shown, for the client."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


LOOK_S = 5.0
"""Longest wait for the hub's answer if a mirror has the file too; else the client's own limit."""
INCOMPLETE = ".rstar.incomplete"


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository."""

    name: str
    size_bytes: int
    sha256: str | None
    """None for small files, which the hub keeps in git."""


@dataclass(frozen=True, slots=True)
class HubRepo:
    """A repository at one commit."""

    repo: str
    revision: str
    commit: str
    files: tuple[HubFile, ...]


def require_hub(what: str) -> None:
    """Nothing, if the hub's client is installed; else raises `MissingDependencyError`."""
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"{what} comes from the Hugging Face hub, and that needs huggingface_hub; type: "
            "pip install 'rstar-math[local]'."
        ) from error


def look_up(repo: str, revision: str = "main", *, wait_s: float | None = None) -> HubRepo:
    """The files of a repository, with their sizes and hashes. Waits at most `wait_s` seconds.

    Raises `ModelUnreachableError` if the hub does not answer, `DownloadError` if it refuses,
    `InputError` for a repository that does not exist, and `MissingDependencyError`.
    """
    require_hub(repo)
    from huggingface_hub import HfApi, constants

    limit_s = wait_s or float(constants.HF_HUB_ETAG_TIMEOUT)
    with describe_error(repo, hub_cache()):
        info = _within(
            limit_s + 3,  # the name's resolution has no limit of its own
            lambda: HfApi().model_info(
                repo, revision=revision, timeout=limit_s, files_metadata=True
            ),
        )
    found = tuple(
        HubFile(one.rfilename, one.size or 0, _hash(one.lfs)) for one in info.siblings or ()
    )
    return HubRepo(info.id or repo, revision, str(info.sha), found)


def download(source: HubRepo, names: Sequence[str], on_bytes: OnBytes) -> list[Path]:
    """Files of a repository in the client's cache, in the order of `names`, downloaded if they are
    not there. Files with a hash are checked against it.

    Raises `DownloadError`, and `StoreError` if the disk is full; what was downloaded by then is
    kept, and the same call goes on.
    """
    from huggingface_hub import hf_hub_download

    chosen = [next(one for one in source.files if one.name == name) for name in names]
    home = _home(source.repo)
    with describe_error(source.repo, hub_cache()):
        require_room(home, sum(one.size_bytes - _have(home, one) for one in chosen))
        done = 0
        for one in sorted(chosen, key=lambda file: file.sha256 is not None):
            if one.sha256 is not None:
                _fetch(source, one, home, _after(done, on_bytes))
            hf_hub_download(source.repo, one.name, revision=source.commit, tqdm_class=Silent)
            done += one.size_bytes
            on_bytes(done)
        refs = home / "refs" / source.revision
        if source.revision != source.commit:
            with atomic_write(refs) as part:
                part.write_text(source.commit, encoding="utf-8")
        return [home / "snapshots" / source.commit / one.name for one in chosen]


def snapshot(repo: str, revision: str = "main") -> Path | None:
    """The folder of a repository's files in the client's cache; None if it has none of them. The
    repository's name may be in any case."""
    home = _home(repo)
    if not home.is_dir():
        wanted = home.name.lower()
        entries = home.parent.iterdir() if home.parent.is_dir() else ()
        alike = [entry for entry in entries if entry.name.lower() == wanted]
        if not alike:
            return None
        home = alike[0]
    try:
        commit = (home / "refs" / revision).read_text(encoding="utf-8").strip()
    except OSError:
        commit = revision
    folder = home / "snapshots" / commit
    return folder if folder.is_dir() else None


def cached_repos() -> list[str]:
    """The repositories of models in the client's cache."""
    folders = sorted(hub_cache().glob("models--*"))
    return [entry.name.removeprefix("models--").replace("--", "/") for entry in folders]


def delete(paths: Sequence[Path]) -> int:
    """Remove files from the client's cache, with the content that their links point to; the number
    of bytes."""
    freed = 0
    for path in paths:
        blob = path.resolve()
        if blob.is_file():
            freed += blob.stat().st_size
            blob.unlink()
        path.unlink(missing_ok=True)
    return freed


def incomplete_bytes(repo: str, sha256: str) -> int:
    """How many bytes an interrupted download left of a file."""
    part = _home(repo) / "blobs" / f"{sha256}{INCOMPLETE}"
    return part.stat().st_size if part.is_file() else 0


def delete_incomplete(repo: str) -> int:
    """Remove what interrupted downloads of a repository left; the number of bytes."""
    return delete([*(_home(repo) / "blobs").glob(f"*{INCOMPLETE}")])


def has_content(path: Path, sha256: str) -> bool:
    """Whether a file has this hash."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest() == sha256


def require_content(path: Path, name: str) -> None:
    """Nothing, if a file in the client's cache still has the hash that its content is called by
    there; else it is deleted, and `DownloadError` raised."""
    said = path.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", said) and not has_content(path, said):
        delete([path])
        raise DownloadError(
            f"{path} had changed on the disk (its SHA-256 differs) and was deleted; type: rstar "
            f"models pull {name}"
        )


def require_room(place: Path, size_bytes: int) -> None:
    """Nothing, if a disk has room for so many bytes; else raises `StoreError`."""
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < size_bytes:
        raise StoreError(
            f"The disk of {place} has {megabytes(free)} free and {megabytes(size_bytes)} are "
            "needed; free some space or name a folder on another disk in RSTAR_CACHE and HF_HOME."
        )


def hub_cache() -> Path:
    """The client's cache; a place where nothing is, if the client is not installed."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return Path(os.devnull) / "hub"
    return Path(constants.HF_HUB_CACHE)


def _home(repo: str) -> Path:
    """The folder of a repository in the client's cache."""
    return hub_cache() / f"models--{repo.replace('/', '--')}"


def _hash(lfs: Any) -> str | None:
    """The SHA-256 of a large file as the hub says it."""
    said = str(lfs.sha256).lower() if lfs else ""
    return said if re.fullmatch(r"[0-9a-f]{64}", said) else None


def _after(before: int, on_bytes: OnBytes) -> OnBytes:
    """A callback for the bytes of one file of several."""
    return lambda count: on_bytes(before + count)


def _part(home: Path, file: HubFile) -> Path:
    return home / "blobs" / f"{file.sha256}{INCOMPLETE}"


def _have(home: Path, file: HubFile) -> int:
    """How many bytes of a file are here."""
    if file.sha256 is None:
        return 0
    blob, part = home / "blobs" / file.sha256, _part(home, file)
    if blob.is_file():
        return file.size_bytes
    return min(part.stat().st_size, file.size_bytes) if part.is_file() else 0


def _fetch(source: HubRepo, file: HubFile, home: Path, on_bytes: OnBytes) -> None:
    """Write a large file's content into the cache, going on where an earlier call ended."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    assert file.sha256 is not None
    blob, part = home / "blobs" / file.sha256, _part(home, file)
    if blob.is_file() or file.size_bytes > constants.MAX_HTTP_DOWNLOAD_SIZE:
        return
    part.parent.mkdir(parents=True, exist_ok=True)
    if part.is_file() and part.stat().st_size > file.size_bytes:
        part.unlink()
    with part.open("ab") as opened:
        have = opened.tell()
        on_bytes(have)
        http_get(
            hf_hub_url(source.repo, file.name, revision=source.commit),
            CountingWriter(opened, on_bytes),
            resume_size=have,
            headers=build_hf_headers(),
            expected_size=file.size_bytes,
            tqdm_class=Silent,
        )
    if not has_content(part, file.sha256):
        part.unlink()
        raise DownloadError(
            f"{file.name} of {source.repo} arrived with other content than the hub says (its "
            "SHA-256 differs) and was deleted; type the same again."
        )
    os.replace(part, blob)


def _within(seconds: float, work: Callable[[], Any]) -> Any:
    """What `work` returns or raises; raises `TimeoutError` if that takes longer."""
    box: list[Any] = []

    def run() -> None:
        try:
            box.append((work(), None))
        except BaseException as error:
            box.append((None, error))

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not box:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    result, error = box[0]
    if error is not None:
        raise error
    return result
