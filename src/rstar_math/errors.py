"""The exception tree. Every message says what happened, the value seen, and what to do.

    RstarError
    |- ConfigError              an unknown, invalid or contradictory option
    |- InputError               a problem file, question or run that cannot be read
    |- MissingDependencyError   an optional package is not installed; the message has the command
    |- ModelError               a model did not return what was requested
    |  |- ModelUnreachableError   no answer: wrong address, server down, connection lost, timeout
    |  |- ModelRejectedError      a permanent error: bad key, unknown model, bad request
    |  |  `- ContextLengthError     prompt and answer exceed the model's context
    |  |- RequestError            one request fails while the server answers others
    |  `- DownloadError           a model's files cannot be downloaded, or have a wrong hash
    |- UploadError              the hub refuses files or does not answer
    |- SandboxError             code cannot be run safely here (never raised for bad code)
    |- TrainingError            a training diverged or does not fit into memory
    |- GradingError             the grader's worker processes cannot be started
    |- ClusterError             a cluster has no usable workers
    `- StoreError               a run file is damaged, of another version, or in use

All errors can be pickled. `ConfigError`, `InputError` and `MissingDependencyError` mean wrong usage
(exit code 2). All others mean failure (exit code 1).
"""


class RstarError(Exception):
    """Base class of all errors that this package raises on purpose.

    The message is one sentence for the user; the command line prints it without a traceback.
    """

    exit_code = 1


class ConfigError(RstarError):
    """An option is unknown, out of range or contradicts another."""

    exit_code = 2


class InputError(RstarError):
    """A problem file, question or run is missing, invalid or cannot be read."""

    exit_code = 2


class MissingDependencyError(RstarError):
    """An optional package is not installed; the message holds the command that installs it."""

    exit_code = 2


class ModelError(RstarError):
    """A model did not return what was requested."""


class ModelUnreachableError(ModelError):
    """The model server did not answer, even after all retries."""


class ModelRejectedError(ModelError):
    """The model server rejected the request permanently; a retry would not help."""


class RequestError(ModelError):
    """One request fails on a server that answers others.

    A search ends the path that needed the request and continues with the other paths.
    """


class DownloadError(ModelError):
    """A model's files cannot be downloaded, or their hash differs from the expected one."""


class UploadError(RstarError):
    """The hub refuses files, or does not answer. The same call sends what is missing."""


class ContextLengthError(ModelRejectedError):
    """The prompt and the maximum answer length together exceed the model's context."""


class SandboxError(RstarError):
    """The sandbox cannot run code safely, or at all, on this machine."""


class TrainingError(RstarError):
    """A training diverged or does not fit into memory."""


class GradingError(RstarError):
    """The grader's worker processes cannot be started or kept running."""


class ClusterError(RstarError):
    """A cluster has no usable workers, or its workers run different versions."""


class StoreError(RstarError):
    """A run file is damaged, of another format version, or in use by another process."""
