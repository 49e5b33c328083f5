"""The exception tree. Every message says what happened, the value seen, and what to do.

    RstarError
    |- ConfigError              an unknown, invalid or contradictory option
    |- InputError               a problem file, question or run that cannot be read
    |- MissingDependencyError   an optional package is not installed; the message has the command
    |- ModelError               a model did not return what was requested
    |  |- ModelUnreachableError   no answer: wrong address, server down, connection lost, timeout
    |  |- ModelRejectedError      a permanent error: bad key, unknown model, bad request
    |  |- RequestError            one request fails while the server answers others
    |  |- DownloadError           a model's files cannot be downloaded, or have a wrong hash
    |  `- ContextLengthError      prompt and answer exceed the model's context
    |- SandboxError             code cannot be run safely here (never raised for bad code)
    |- TrainingError            a training diverged or does not fit into memory
    |- GradingError             the grader's worker processes cannot be started
    |- ClusterError             a cluster has no usable workers
    `- StoreError               a run file is damaged, of another version, or in use

All errors can be pickled. Exit codes: `ConfigError`, `InputError` and `MissingDependencyError` mean
wrong usage (2); the others mean failure (1).
"""


class RstarError(Exception):
    """Base of all errors this package raises on purpose; the message is a sentence for a person."""

    exit_code = 1


class ConfigError(RstarError):
    """An option is unknown, out of range or contradicts another."""

    exit_code = 2


class InputError(RstarError):
    """A problem file, question or run cannot be read as asked."""

    exit_code = 2


class MissingDependencyError(RstarError):
    """An optional package is not installed; the message holds the command to type."""

    exit_code = 2


class ModelError(RstarError):
    """A model did not give what was asked."""


class ModelUnreachableError(ModelError):
    """No answer from the model server, after the retries."""


class ModelRejectedError(ModelError):
    """The model server answered that it will not do this; asking again would not help."""


class RequestError(ModelError):
    """One request cannot be served by a server that answers others; a search ends the path it was
    for and goes on."""


class DownloadError(ModelError):
    """The files of a model cannot be downloaded, or their content is not the expected one."""


class ContextLengthError(ModelRejectedError):
    """The prompt and the room for the answer do not fit the model's context."""


class SandboxError(RstarError):
    """Code cannot be run safely, or at all, on this machine right now."""


class TrainingError(RstarError):
    """A training diverged, or does not fit into the memory there is."""


class GradingError(RstarError):
    """The grader's worker processes cannot be started or kept running."""


class ClusterError(RstarError):
    """The workers of a cluster cannot be had, or do not work alike."""


class StoreError(RstarError):
    """A run file is damaged, of another format version, or in use by another process."""
