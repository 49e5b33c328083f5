"""Options and results of curation."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import Field

from rstar_math.config.sections import Section
from rstar_math.types import Question, Step, StepPair, Trajectory


class CurationConfig(Section):
    """Selection of training data from search trees (rStar-Math, arXiv:2501.04519, sections 3.2 and
    3.3)."""

    format: Literal["fenced", "tags"] = "fenced"
    """Step format of the training data; see `policy.format` (our choice: "fenced", the Markdown
    that code models know; the paper uses tags)."""
    solutions: int = Field(2, ge=1)
    """Maximum number of right solutions kept per problem, highest mean Q first (paper: 2)."""
    per_source: int | None = Field(None, ge=1)
    """Maximum number of right solutions kept per problem source, spread over its problems. Default:
    no maximum (the paper names none)."""
    drop_false_arithmetic: bool = False
    """Drop right solutions whose words state a false calculation, such as "52 - 18 = 28" (paper: no
    such rule). The report counts them in any case."""
    positives: int = Field(2, ge=1)
    """Number of preferred children per node, highest Q first (paper: 2)."""
    negatives: int = Field(2, ge=1)
    """Number of rejected children per node, lowest Q first (paper: 2)."""
    max_when_single: int = Field(4, ge=1)
    """Maximum number of children on one side when the other side has only one (rStar-Math's code:
    4)."""
    min_q_gap: float = Field(0.0, ge=0, le=2)
    """Minimum Q difference between the two sides of a step pair. The difference must always be
    above 0 (paper: no minimum; its code: 0.5)."""
    min_edit_distance: int = Field(0, ge=0)
    """Minimum edit distance, in characters, between the two sides of a step pair (paper: none; its
    code: 20)."""
    allow_rewordings: bool = True
    """Keep step pairs whose two sides run the same program in different words (paper and code:
    yes). Without them, pairs teach less about wording."""
    require_better_completion: bool = False
    """Keep a step pair only if the preferred side has the better completion: its best right one
    must have a higher mean Q than the other side's worst wrong one (rStar-Math's code: yes; paper:
    no such rule)."""
    nodes: Literal["all", "most-visited"] = "all"
    """Nodes whose children are paired: all, or only those on the most visited path (rStar-Math's
    code has both; paper: all)."""
    final_pairs: int = Field(2, ge=0)
    """Number of right and of wrong whole solutions to pair per problem: right ones of the highest
    mean Q with wrong ones of the lowest. 0: none (paper: 2; its code: none)."""
    noise_min_programs: int = Field(4, ge=2)
    """Minimum number of different programs, all contradicting the reference, before a problem is
    reported as mislabelled (our choice: fewer often share one mistake)."""
    noise_min_share: float = Field(0.8, gt=0.5, le=1)
    """Minimum share of these programs that agree on one answer (our choice; the paper inspected 20
    unsolved problems and found 19 mislabelled)."""


Data = Literal["sft", "preference", "outcome", "value"]
"""Kinds of training data: solutions to imitate; pairs for a preference model; whole solutions with
their outcome (ORM); prefixes with their Q (PQM)."""
ALL_DATA: tuple[Data, ...] = get_args(Data)


@dataclass(frozen=True, slots=True)
class TreeNodeRef:
    """A node of a run's tree: the strategy that built the tree, and the node's index."""

    strategy: str
    node: int


@dataclass(frozen=True, slots=True)
class SelectedSolution:
    """A right solution to imitate."""

    trajectory: Trajectory
    last_node: TreeNodeRef
    mean_q: float | None
    """Mean Q of the steps, in [-1, 1]; None if no step has a Q."""
    min_q: float | None
    """Lowest Q of the steps, in [-1, 1]; None if no step has a Q."""


@dataclass(frozen=True, slots=True)
class SelectedPair:
    """A preference pair and its place in the trees."""

    pair: StepPair
    kind: Literal["step", "final"]
    """Two next steps of one node, or two whole solutions."""
    chosen: TreeNodeRef
    """Last node of the preferred side."""
    rejected: TreeNodeRef
    """Last node of the other side."""
    node: int
    """Node whose children are compared; 0 (the root) for whole solutions."""
    depth: int
    """Number of steps that the two sides share."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A whole solution and whether its answer is right."""

    trajectory: Trajectory
    last_node: TreeNodeRef
    right: bool


@dataclass(frozen=True, slots=True)
class PrefixValue:
    """A prefix of a solution and its value."""

    question: Question
    steps: tuple[Step, ...]
    last_node: TreeNodeRef
    q: float
    """Mean value backed up through the last step, in [-1, 1]."""


@dataclass(frozen=True, slots=True)
class SuspectLabel:
    """A problem whose reference answer is probably wrong."""

    problem: str
    """Problem id."""
    reference: str | None
    answer: str
    """Answer that the solutions agree on instead."""
    share: float
    """Share of the different programs that gave this answer, in (0.5, 1]."""
    programs: int
    """Number of different programs that gave any answer."""


@dataclass(frozen=True, slots=True)
class UnreliableProblem:
    """A synthetic problem whose solutions mostly contradict its reference."""

    problem: str
    """Problem id."""
    share: float
    """Share of the judged paths that reach the reference, in [0, 1]."""
    ends: int
    """Number of judged paths."""


@dataclass(slots=True)
class Report:
    """Numbers of kept and dropped items by reason. A reason without items has no entry."""

    problems: dict[str, int] = field(default_factory=dict)
    """Problems by the verdicts of their paths."""
    solutions: dict[str, int] = field(default_factory=dict)
    """Finished paths: kept as solutions to imitate, or the reason why not."""
    flags: dict[str, int] = field(default_factory=dict)
    """Kept solutions that deserve a look, by reason."""
    step_pairs: dict[str, int] = field(default_factory=dict)
    """Candidate pairs of sibling steps: kept, or the reason why not."""
    final_pairs: dict[str, int] = field(default_factory=dict)
    """Candidate pairs of whole solutions: kept, or the reason why not."""
    by_depth: dict[int, int] = field(default_factory=dict)
    """Kept step pairs by the number of steps that the two sides share."""

    def as_json(self) -> dict[str, Any]:
        """The counts: reasons by falling count, depths in rising order."""
        groups = {
            "problems": self.problems,
            "solutions": self.solutions,
            "step_pairs": self.step_pairs,
            "final_pairs": self.final_pairs,
            **({"flags": self.flags} if self.flags else {}),
        }
        ordered: dict[str, Any] = {
            name: dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
            for name, counts in groups.items()
        }
        depths = {str(depth): self.by_depth[depth] for depth in sorted(self.by_depth)}
        return {**ordered, "step_pairs_by_depth": depths}


@dataclass(slots=True, repr=False)
class Curated:
    """Training data of a run. Kinds that were not requested are empty.

    It has no generated repr: `asyncio.run` formats a coroutine's result twice, which is slow here.
    """

    solutions: list[SelectedSolution] = field(default_factory=list)
    pairs: list[SelectedPair] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    values: list[PrefixValue] = field(default_factory=list)
    suspects: list[SuspectLabel] = field(default_factory=list)
    """Problems left out because their reference is probably wrong."""
    unreliable: list[UnreliableProblem] = field(default_factory=list)
    """Synthetic problems left out because their solutions mostly contradict the reference."""
    sources: dict[str, str | None] = field(default_factory=dict)
    """Source of each problem, by problem id."""
    report: Report = field(default_factory=Report)


def add_count(counts: dict[str, int], reason: str, number: int = 1) -> None:
    """Add `number` to the count of a reason. Zero adds no entry."""
    if number:
        counts[reason] = counts.get(reason, 0) + number
