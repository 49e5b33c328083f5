"""What goes wrong with the Hugging Face hub, in one sentence each."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rstar_math.errors import (
    DownloadFailed,
    InputError,
    ModelUnreachable,
    RstarError,
    StoreError,
)


def endpoint() -> str:
    """The address of the hub without its scheme, as in "huggingface.co"."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT).partition("://")[2]


@contextmanager
def in_words(repo: str, cache: Path) -> Iterator[None]:
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
        return DownloadFailed(
            f"{repo} is not on this disk and HF_HUB_OFFLINE forbids downloads; unset it, or give "
            "a model that is here (rstar models list)."
        )
    if isinstance(error, errors.HFValidationError):
        return InputError(f"{repo!r} is no name of a hub repository; give hf:ORG/NAME.")
    if isinstance(error, errors.HfHubHTTPError):
        return _refused(repo, error)
    if isinstance(error, errors.HTTPError | errors.LocalEntryNotFoundError | TimeoutError):
        return ModelUnreachable(
            f"The hub {endpoint()} does not answer for {repo} ({type(error).__name__}: {first}); "
            "type the same again to go on, or correct HF_ENDPOINT."
        )
    if isinstance(error, OSError) and error.errno is not None:
        return disk_error(cache, error)
    if isinstance(error, OSError):
        return DownloadFailed(
            f"The download of {repo} broke off ({first}); type the same again to go on."
        )
    return error


def _refused(repo: str, error: Any) -> RstarError:
    """What the hub's answer with an error status means."""
    from huggingface_hub import errors

    status = error.response.status_code
    where = f"{endpoint()}/{repo}"
    if isinstance(error, errors.GatedRepoError):
        return DownloadFailed(
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
        return DownloadFailed(
            f"The hub refuses {repo} with status {status}; set HF_TOKEN to a valid token that may "
            "read it."
        )
    return ModelUnreachable(
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
