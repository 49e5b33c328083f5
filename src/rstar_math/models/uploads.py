"""Uploads to the Hugging Face hub with its own client (`huggingface_hub`).

Large files are sent before the commit. After an interruption, the same call sends only those that
the hub does not have yet.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rstar_math.errors import InputError, MissingDependencyError, RstarError, UploadError
from rstar_math.models.hub import endpoint

RepoType = Literal["model", "dataset"]
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


@dataclass(frozen=True, slots=True)
class UploadTarget:
    """A repository of the hub, which is created if it is missing."""

    repo: str
    """ORG/NAME."""
    type: RepoType
    private: bool = False
    """Visibility of a new repository. An existing one keeps its own."""

    @property
    def url(self) -> str:
        """The address of the repository's page."""
        return f"https://{endpoint()}/{'datasets/' if self.type == 'dataset' else ''}{self.repo}"


def require_target(repo: str) -> None:
    """Raise `InputError` unless a text is a repository name of the form ORG/NAME, and
    `MissingDependencyError` without the hub client."""
    if _NAME.fullmatch(repo) is None or ".." in repo or "--" in repo:
        raise InputError(f"{repo!r} is not a valid hub repository name; give ORG/NAME.")
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "rstar push needs huggingface_hub; type: pip install 'rstar-math[local]'."
        ) from error


def upload(target: UploadTarget, files: Mapping[str, Path | bytes], message: str) -> str:
    """Send files in one commit; the address of the commit.

    `files` are by their path in the repository. Other files of the repository stay. Raises
    `UploadError` if the hub refuses or does not answer.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    with _convert_upload_errors(target):
        api = HfApi()
        api.create_repo(
            target.repo, repo_type=target.type, private=target.private or None, exist_ok=True
        )
        operations = [
            CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
            for name, content in files.items()
        ]
        commit: Any = api.create_commit(
            target.repo, operations, commit_message=message, repo_type=target.type
        )
    return str(commit.commit_url)


def licence_on_hub(repo: str) -> str | None:
    """Return the licence that a model's card states; None if it states none or the hub does not
    answer."""
    try:
        from huggingface_hub import HfApi

        info: Any = HfApi().model_info(repo)
        licence = info.card_data.get("license") if info.card_data else None
    except Exception:
        return None
    return licence if isinstance(licence, str) else None


@contextmanager
def _convert_upload_errors(target: UploadTarget) -> Iterator[None]:
    """Convert errors of the hub client to errors of this package."""
    try:
        yield
    except RstarError:
        raise
    except Exception as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) else None
        converted = _converted(target, cause or error)
        if converted is None:
            raise
        raise converted from error


def _converted(target: UploadTarget, error: BaseException) -> UploadError | None:
    """Return an error of this package for an error of the client; None for other errors."""
    from huggingface_hub import errors

    again = "run the same command again; files that have arrived are not sent twice"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return UploadError("HF_HUB_OFFLINE forbids uploads; unset it.")
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return UploadError(
                f"The hub refuses to write to {target.repo} with status {status}; set HF_TOKEN to "
                "a token with write access (or run: hf auth login)."
            )
        return UploadError(
            f"The hub {endpoint()} answers with status {status} for {target.repo}; {again}."
        )
    if isinstance(error, errors.HTTPError | OSError | ValueError):
        text = " ".join(str(error).split())[:160]
        return UploadError(
            f"The upload to {target.repo} was interrupted ({type(error).__name__}: {text}); "
            f"{again}."
        )
    return None
