"""The data types that all packages share.

Reasoning is a tree of `Step`s below a `Question`; a root-to-end path is a `Trajectory`; two ways to
go on from one prefix are a `StepPair`. Values lie in [-1, 1]; an unknown value is `None`, never 0.

The reference answer lives in `Problem.reference` and nowhere else. Policies, scorers, executors and
the search are handed a `Question`, which has none: that is the gold-answer firewall, by type.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

SYNTHETIC = "synthetic"
"""`Problem.source` of problems that a model wrote, whose references are what its solutions agreed
on."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a solver may know of a problem: a stable id and the text."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A question and, where known, its reference answer, which only a Verifier may be given."""

    question: Question
    reference: str | None = None
    source: str | None = None
    """Name of the set it came from, e.g. "gsm8k"."""
    level: str | None = None
    """Difficulty as its source states it; no common scale."""

    @property
    def id(self) -> str:
        """The question's id: unique within a run."""
        return self.question.id


class Verdict(StrEnum):
    """What a Verifier says of an answer. UNKNOWN (too long, timed out, unparsable) is not WRONG."""

    RIGHT = "right"
    WRONG = "wrong"
    UNKNOWN = "unknown"


class ExecutionStatus(StrEnum):
    """How a run of a step's code ended, as the operating system saw it (the output is never read
    to decide it: a program that prints "error" is OK)."""

    OK = "ok"
    ERROR = "error"
    """An exception left the code; see `error_type` and `message`."""
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT_CAP = "output_cap"
    KILLED = "killed"
    """Ended by a signal, e.g. a crash in native code or a forbidden system call."""
    EXITED = "exited"
    """The process ended itself without reporting back (`os._exit`)."""


@dataclass(frozen=True, slots=True)
class Execution:
    """What running one step's code did.

    `stdout` holds only what the step itself printed, not its prefix. The times are measurements and
    not part of equality: two runs of one program are equal if they did the same.
    """

    status: ExecutionStatus
    stdout: str = ""
    error_type: str | None = None
    """Exception class name, e.g. "ZeroDivisionError"; None unless the code raised."""
    message: str | None = None
    """One line on what went wrong; None when the status is OK."""
    wall_s: float = field(default=0.0, compare=False)
    cpu_s: float = field(default=0.0, compare=False)

    @property
    def ok(self) -> bool:
        """Whether the code ran to its end."""
        return self.status is ExecutionStatus.OK


@dataclass(frozen=True, slots=True)
class Step:
    """One unit of reasoning: prose, code, what running it printed, and the answer if it states one.

    `prose + code` is exactly what the model wrote (delimiters removed), so that a prefix is
    rendered to the same text that the model was sampled from.
    """

    prose: str = ""
    code: str = ""
    """Python to run after the prefix's code; "" where nothing is to be run."""
    kind: str = "step"
    """The grammar's label. Code-augmented CoT: "step", "code" (last of its code block), "answer".
    rStar: "A1" to "A5"."""
    answer: str | None = None
    """The final answer that the step states, or None."""
    execution: Execution | None = None
    """None before the code has run, and for steps without code."""
    confidence: float | None = None
    """Share of the votes behind `answer`, in [0, 1]; None where no vote was held."""
    reasoning: str = ""
    """What a reasoning model thought before it wrote the step; never read for an answer."""

    @property
    def text(self) -> str:
        """The step as the model wrote it."""
        return self.prose + self.code

    @property
    def failed(self) -> bool:
        """Whether the step's code was run and did not end well."""
        return self.execution is not None and not self.execution.ok


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One root-to-end path of a tree.

    `q[t]` and `scores[t]` belong to `steps[t]`: the mean backed-up value, in [-1, 1], and the
    scorer's value, in [-1, 1]; None where there is none.
    """

    question: Question
    steps: tuple[Step, ...]
    q: tuple[float | None, ...]
    scores: tuple[float | None, ...]
    node: int
    """Index of the path's last node in its tree."""
    verdict: Verdict | None = None
    """The Verifier's word, or None where none was asked."""
    agreement: tuple[int, int] | None = None
    """Completions by a second model that agree with the answer, and completions asked for; None
    where none was."""

    @property
    def answer(self) -> str | None:
        """The answer the path ends in, or None if it gave up or was cut off."""
        return self.steps[-1].answer if self.steps else None


@dataclass(frozen=True, slots=True)
class StepPair:
    """Two continuations of one prefix, the first preferred (rStar-Math, arXiv:2501.04519, section
    3.3).

    With an empty prefix the two sides are whole trajectories (the paper's final-step pairs).
    """

    question: Question
    prefix: tuple[Step, ...]
    chosen: tuple[Step, ...]
    rejected: tuple[Step, ...]
    q_chosen: float
    q_rejected: float
    weight: float = 1.0
    """Factor on the pair's loss: 1 / (positives x negatives) of its node."""


@dataclass(slots=True)
class Cost:
    """What a piece of work consumed. All counts start at 0; costs add."""

    calls: int = 0
    """Requests that a model server answered."""
    samples: int = 0
    """Completions sampled; one call with n=8 gives 8."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Those of the prompt tokens that the server says it had in its prefix cache."""
    sampled_tokens: int = 0
    discriminator_tokens: int = 0
    """Those of the sampled tokens that a second model wrote to check the first one's work."""
    scorer_tokens: int = 0
    """Tokens that a scorer read and sampled; not among the prompt and sampled tokens."""
    unscorable: int = 0
    """Prefixes that a scorer could not judge and gave 0: no verdict to be read in what the model
    wrote, or a prompt too long for it; and beginnings that a second model was not able to be asked
    to complete."""
    code_runs: int = 0
    code_failures: int = 0
    truncated: int = 0
    """Samples cut off at the token limit before their step ended; not used."""
    malformed: int = 0
    """Samples in which the grammar found no step; not used."""
    retries: int = 0
    """Requests sent again after a refused, dropped or failed one."""
    failures: int = 0
    """Requests given up after the last retry."""
    seconds: float = 0.0
    """Wall time."""
    saved_tokens: int = 0
    """What was not consumed: tokens that stopping early is reckoned to have spared, the budget that
    was left, or the rollouts that were left at the mean of those done."""

    def add(self, other: "Cost") -> None:
        """Add another cost to this one, field by field."""
        for name in Cost.__slots__:
            if more := getattr(other, name):
                setattr(self, name, getattr(self, name) + more)

    @classmethod
    def total(cls, costs: Iterable["Cost"]) -> "Cost":
        """The sum of some costs."""
        whole = cls()
        for cost in costs:
            whole.add(cost)
        return whole
