"""The data types that all packages share.

A search grows a tree of `Step`s below a `Question`. A path from the root to a node is a
`Trajectory`. Two continuations of one prefix form a `StepPair`. Values lie in [-1, 1]; an unknown
value is `None`, never 0.

Only `Problem.reference` holds the reference answer. Policies, scorers, executors and the search
receive a `Question`, which has no reference. The type system thus keeps references out of a search.
`tasks` describes the kinds of problems.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from rstar_math.tasks import Kind, Reference, Task, describe_reference, fits, kind_of, shown_text

SYNTHETIC = "synthetic"
"""`Problem.source` of problems written by a model. Their reference is the answer on which the
model's own solutions agree."""


@dataclass(frozen=True, slots=True)
class Image:
    """A picture of a question."""

    media_type: str
    """For example "image/png"."""
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Question:
    """The part of a problem that a solver may see: a stable id, the text, and the task."""

    id: str
    text: str
    task: Task | None = None
    """What the question asks for; None means a mathematical answer."""
    images: tuple[Image, ...] = ()

    @property
    def kind(self) -> Kind:
        """The kind of the problem."""
        return kind_of(self.task)

    @property
    def shown(self) -> str:
        """The text as a solver sees it, with the options or the public tests of the task."""
        return shown_text(self.text, self.task)


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with its reference answer, if known. Only a Verifier may receive the reference."""

    question: Question
    reference: Reference | None = None
    """What decides whether an answer is right. Its type belongs to the question's task."""
    source: str | None = None
    """Name of the data set the problem comes from, for example "gsm8k"."""
    level: str | None = None
    """Difficulty as stated by the source; different sources use different scales."""

    @property
    def id(self) -> str:
        """The question's id, unique within a run."""
        return self.question.id

    @property
    def reference_text(self) -> str | None:
        """The reference in one line, for reports and pages; None if unknown."""
        return None if self.reference is None else describe_reference(self.reference)

    def __post_init__(self) -> None:
        if not fits(self.question.task, self.reference):
            raise TypeError(
                f"The reference of {self.id!r} is {type(self.reference).__name__}, which does not "
                f"belong to a problem of the kind {self.question.kind}."
            )


class Verdict(StrEnum):
    """A Verifier's verdict on an answer.

    UNKNOWN means that the answer cannot be compared: it is too long, unparsable or timed out.
    """

    RIGHT = "right"
    WRONG = "wrong"
    UNKNOWN = "unknown"


class ExecutionStatus(StrEnum):
    """How the execution of a step's code ended, as reported by the operating system.

    The output does not influence the status: a program that prints "error" is OK.
    """

    OK = "ok"
    ERROR = "error"
    """The code raised an exception; see `error_type` and `message`."""
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT_CAP = "output_cap"
    KILLED = "killed"
    """A signal ended the process, for example after a crash in native code or a forbidden system
    call."""
    EXITED = "exited"
    """The process exited without reporting a result (`os._exit`)."""


@dataclass(frozen=True, slots=True)
class Execution:
    """The result of executing one step's code.

    `stdout` holds the output of this step only, not of its prefix. Equality ignores the measured
    times.
    """

    status: ExecutionStatus
    stdout: str = ""
    error_type: str | None = None
    """Exception class name, for example "ZeroDivisionError"; None if the code did not raise."""
    message: str | None = None
    """One-line description of the failure; None if the status is OK."""
    wall_s: float = field(default=0.0, compare=False)
    """Wall time, in seconds."""
    cpu_s: float = field(default=0.0, compare=False)
    """CPU time, in seconds."""

    @property
    def ok(self) -> bool:
        """Whether the code ran to completion without an error."""
        return self.status is ExecutionStatus.OK


@dataclass(frozen=True, slots=True)
class TokenStats:
    """A summary of the token log-probabilities of a sampled text; see `rstar_math.confidence`.

    Log-probabilities are at most 0, certainties at least 0, both in nats per token.
    """

    tokens: int
    """Number of sampled tokens, at least 1."""
    mean: float
    """Mean log-probability of the sampled tokens."""
    tail: float
    """Mean log-probability of the last tokens."""
    lowest: float
    """Lowest mean log-probability of a window of consecutive tokens."""
    certainty: float | None = None
    """Mean certainty; None if the server sent only the sampled tokens' log-probabilities."""
    tail_certainty: float | None = None
    """Mean certainty of the last tokens; None as for `certainty`."""
    lowest_certainty: float | None = None
    """Lowest mean certainty of a window; None as for `certainty`."""


@dataclass(frozen=True, slots=True)
class Step:
    """One unit of reasoning: prose, code, the execution of the code, and the answer, if stated.

    `prose + code` is exactly the model's output without delimiters. Rendering a prefix therefore
    reproduces the text from which the model sampled.
    """

    prose: str = ""
    code: str = ""
    """Python code to run after the prefix's code; "" if there is none."""
    kind: str = "step"
    """The grammar's label. Code-augmented CoT uses "step", "code" (last step of a code block) and
    "answer". rStar uses "A1" to "A5"."""
    answer: str | None = None
    """The final answer that the step states, or None."""
    execution: Execution | None = None
    """The result of running the code; None before it has run and for steps without code."""
    confidence: float | None = None
    """Share of the votes for `answer`, in [0, 1]; None if the step was not chosen by a vote."""
    reasoning: str = ""
    """The thoughts of a reasoning model before the step; answers are never extracted from them."""
    token_stats: TokenStats | None = field(default=None, compare=False)
    """Log-probabilities of the sampled text that ended with this step; None if they were not
    requested, and for the other steps of a text with several."""
    tokens: int | None = field(default=None, compare=False)
    """Number of tokens of the sampled text that ended with this step; None if the server did not
    report it, and for the other steps of a text with several."""

    @property
    def text(self) -> str:
        """The step as written by the model."""
        return self.prose + self.code

    @property
    def failed(self) -> bool:
        """Whether the step's code was executed and failed."""
        return self.execution is not None and not self.execution.ok


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One path of a tree, from the root to `node`.

    `q[t]` is the mean backed-up value of `steps[t]`, and `scores[t]` is its scorer value. Both lie
    in [-1, 1]; None means unknown.
    """

    question: Question
    steps: tuple[Step, ...]
    q: tuple[float | None, ...]
    scores: tuple[float | None, ...]
    node: int
    """Index of the path's last node in its tree."""
    verdict: Verdict | None = None
    """The Verifier's verdict on the answer; None if no Verifier was used."""
    agreement: tuple[int, int] | None = None
    """(agreeing, requested): the discriminator's completions that agree with the answer, and all
    its completions. None if the discriminator did not check this path."""

    @property
    def answer(self) -> str | None:
        """The answer of the last step, or None if the path ended without one."""
        return self.steps[-1].answer if self.steps else None


@dataclass(frozen=True, slots=True)
class StepPair:
    """Two continuations of one prefix; `chosen` is preferred to `rejected`.

    With an empty prefix, both sides are whole trajectories (the paper's final-answer pairs).
    Source: rStar-Math, arXiv:2501.04519, section 3.3.
    """

    question: Question
    prefix: tuple[Step, ...]
    chosen: tuple[Step, ...]
    rejected: tuple[Step, ...]
    q_chosen: float
    q_rejected: float
    weight: float = 1.0
    """Factor on the pair's loss: 1 / (number of chosen x number of rejected steps at its node)."""


@dataclass(slots=True)
class Cost:
    """Resources used by a piece of work. Counts start at 0; costs can be added."""

    calls: int = 0
    """Requests answered by a model server."""
    samples: int = 0
    """Sampled completions; one call with n=8 gives 8."""
    prompt_tokens: int = 0
    """Prompt tokens of the policy and the discriminator, cached or not."""
    cached_tokens: int = 0
    """Prompt tokens that the server reports as found in its prefix cache."""
    sampled_tokens: int = 0
    """Tokens sampled by the policy and the discriminator."""
    discriminator_tokens: int = 0
    """The part of `sampled_tokens` that the discriminator sampled."""
    scorer_tokens: int = 0
    """Tokens read or sampled by a scorer; not included in the prompt and sampled tokens."""
    unscorable: int = 0
    """Prefixes that got value 0 because the scorer's output had no verdict or the prompt was too
    long. Also counts discriminator requests that failed."""
    code_runs: int = 0
    """Executed steps with code."""
    code_failures: int = 0
    """Executed steps whose status is not OK."""
    truncated: int = 0
    """Discarded samples that reached the token limit before their step ended."""
    malformed: int = 0
    """Discarded samples in which the grammar found no step."""
    retries: int = 0
    """Requests sent again after a rejected, dropped or failed attempt."""
    failures: int = 0
    """Requests that failed after the last retry."""
    seconds: float = 0.0
    """Wall time, in seconds."""
    estimated_tokens: int = 0
    """The part of the prompt and sampled tokens that the server did not report, so that it was
    estimated from the length of the texts."""
    images: int = 0
    """Pictures in answered requests."""
    saved_tokens: int = 0
    """Estimated tokens saved by early stopping: the unused token budget, or the skipped rollouts
    times the mean tokens per finished rollout."""

    def add(self, other: "Cost") -> None:
        """Add another cost to this one in place, field by field."""
        for name in Cost.__slots__:
            if amount := getattr(other, name):
                setattr(self, name, getattr(self, name) + amount)

    @classmethod
    def total(cls, costs: Iterable["Cost"]) -> "Cost":
        """Return the sum of several costs."""
        total = cls()
        for cost in costs:
            total.add(cost)
        return total
