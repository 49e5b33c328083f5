"""The exception tree. Every message says what happened, the value seen, and what to do.

    RstarError
    |- ConfigError        an option that is unknown, out of range or contradictory
    |- InputError         a problem file, question or run that cannot be read
    |- MissingExtra       an optional package is not installed; the message is the command to type
    |- ModelError         a model did not give what was asked
    |  |- ModelUnreachable   no answer: wrong address, server down, connection lost, too slow
    |  |- ModelRefused       an answer that no retry mends: bad key, unknown model, bad request
    |  |- RequestFailed      one request cannot be served, while the server answers others
    |  |- DownloadFailed     a model's files cannot be downloaded, or are not what they should be
    |  `- ContextExceeded    prompt and answer do not fit the model's context
    |- SandboxError       code cannot be run safely here (never raised for bad code: that is data)
    |- TrainingError      a training diverged, or does not fit into the memory there is
    |- GradingError       the grader's own workers cannot be started or kept up
    |- ClusterError       the workers of a cluster cannot be had, or differ from the driver
    `- StoreError         a run file is damaged, of another version, or in use

All pickle, so they cross process borders whole. Exit codes: `ConfigError`, `InputError` and
`MissingExtra` mean the command was used wrongly (2); the others that it failed (1).
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


class MissingExtra(RstarError):
    """An optional package is not installed; the message holds the command to type."""

    exit_code = 2


class ModelError(RstarError):
    """A model did not give what was asked."""


class ModelUnreachable(ModelError):
    """No answer from the model server, after the retries."""


class ModelRefused(ModelError):
    """The model server answered that it will not do this; asking again would not help."""


class RequestFailed(ModelError):
    """One request cannot be served by a server that answers others; a search ends the path it was
    for and goes on."""


class DownloadFailed(ModelError):
    """The files of a model cannot be downloaded, or their content is not the expected one."""


class ContextExceeded(ModelRefused):
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
