"""Options and results of curation."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import Field

from rstar_math.config.sections import Section
from rstar_math.types import Question, Step, StepPair, Trajectory


class CurationConfig(Section):
    """From trees to training data (rStar-Math, arXiv:2501.04519, sections 3.2 and 3.3)."""

    format: Literal["fenced", "tags"] = "fenced"
    """How steps are written in the training data, as `policy.format` (our choice: the Markdown that
    code models know; the paper writes tags)."""
    solutions: int = Field(2, ge=1)
    """Most right solutions kept of one problem, those of the highest mean Q (paper: 2)."""
    per_source: int | None = Field(None, ge=1)
    """Most right solutions kept of one source of problems, spread over its problems; by default
    all (the paper names no cap)."""
    positives: int = Field(2, ge=1)
    """Children of a node that are preferred, those of the highest Q (paper: 2)."""
    negatives: int = Field(2, ge=1)
    """Children of a node that they are preferred to, those of the lowest Q (paper: 2)."""
    max_when_single: int = Field(4, ge=1)
    """Most children on the other side where a side has only one (rStar-Math's code: 4)."""
    min_q_gap: float = Field(0.0, ge=0, le=2)
    """Least difference in Q between the sides of a step pair, which is always above 0 (paper: no
    margin; its code: 0.5)."""
    min_edit_distance: int = Field(0, ge=0)
    """Least edit distance, in characters, between the sides of a step pair (paper: none; its code:
    20)."""
    allow_rewordings: bool = True
    """Whether the sides of a step pair may compute the same in other words (paper and code: yes);
    without, pairs teach less of wording."""
    require_better_completion: bool = False
    """Keep a step pair only if the best right completion of its preferred side has a higher mean Q
    than the worst wrong one of the other (rStar-Math's code does; the paper is silent)."""
    nodes: Literal["all", "most-visited"] = "all"
    """Whether step pairs are taken at all nodes or down the most visited path only (both modes are
    in rStar-Math's code; the paper takes all)."""
    final_pairs: int = Field(2, ge=0)
    """Right and wrong whole solutions of a problem that are paired with each other: right ones of
    the highest mean Q, wrong ones of the lowest (paper: 2; its code has none); 0 for none."""
    noise_min_programs: int = Field(4, ge=2)
    """Different programs that must have answered a problem, all against the reference, before the
    reference is doubted (our choice: agreement of fewer is often one common slip)."""
    noise_min_share: float = Field(0.8, gt=0.5, le=1)
    """Share of them that must agree on one answer for that (our choice; the paper found 19 of 20
    unsolved problems to be mislabelled by looking at them)."""


Data = Literal["sft", "preference", "outcome", "value", "steps"]
"""Kinds of training data: solutions to imitate; pairs for a preference model; whole solutions with
their outcome (ORM); prefixes with their Q (PQM); solutions with a label for each step."""
ALL_DATA: tuple[Data, ...] = get_args(Data)


@dataclass(frozen=True, slots=True)
class TreeNodeRef:
    """A node of a run: the strategy that grew its tree, and its index in it."""

    strategy: str
    node: int


@dataclass(frozen=True, slots=True)
class SelectedSolution:
    """A right solution to imitate."""

    trajectory: Trajectory
    spot: TreeNodeRef
    mean_q: float | None
    """Mean of the steps' Q, in [-1, 1]; None where no step has one."""
    min_q: float | None


@dataclass(frozen=True, slots=True)
class SelectedPair:
    """A pair and where it comes from."""

    pair: StepPair
    kind: Literal["step", "final"]
    """Two next steps of one node, or two whole solutions."""
    chosen: TreeNodeRef
    """Last node of the preferred side."""
    rejected: TreeNodeRef
    node: int
    """The node whose children are compared; 0 (the root) for whole solutions."""
    depth: int
    """Steps before the two sides part."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A whole solution and whether its answer is right."""

    trajectory: Trajectory
    spot: TreeNodeRef
    right: bool


@dataclass(frozen=True, slots=True)
class PrefixValue:
    """The first steps of a solution and their value."""

    question: Question
    steps: tuple[Step, ...]
    spot: TreeNodeRef
    q: float
    """Mean value backed up through the last step, in [-1, 1]."""


@dataclass(frozen=True, slots=True)
class LabelledSteps:
    """A solution with labels for its steps (Math-Shepherd, arXiv:2312.08935, section 3.3)."""

    trajectory: Trajectory
    spot: TreeNodeRef
    hard: tuple[bool, ...]
    """Whether any judged end below the step is right."""
    soft: tuple[float, ...]
    """Share of the judged ends below the step that are right, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class SuspectLabel:
    """A problem whose reference answer is probably wrong."""

    problem: str
    reference: str | None
    answer: str
    """What the solutions agree on instead."""
    share: float
    """Share of the different programs that gave it, in (0.5, 1]."""
    programs: int
    """Different programs that answered."""


@dataclass(frozen=True, slots=True)
class UnreliableProblem:
    """A problem that a model wrote and whose solutions mostly contradict its reference."""

    problem: str
    share: float
    """Share of the judged paths that come to the reference, in [0, 1]."""
    ends: int
    """Judged paths."""


@dataclass(slots=True)
class Report:
    """Counts of what was kept and dropped, by reason; every count starts at 0."""

    problems: dict[str, int] = field(default_factory=dict)
    """Problems by what their judged ends were."""
    solutions: dict[str, int] = field(default_factory=dict)
    """Ends of paths by what became of them as solutions to imitate."""
    step_pairs: dict[str, int] = field(default_factory=dict)
    """Pairs of sibling steps that the 2-against-2 and 1-against-4 rules selected."""
    final_pairs: dict[str, int] = field(default_factory=dict)
    """Pairs of whole solutions."""
    by_depth: dict[int, int] = field(default_factory=dict)
    """Kept step pairs by the number of steps before the sides part."""

    def as_json(self) -> dict[str, Any]:
        """The counts, most frequent reason first and depths in order."""
        groups = {
            "problems": self.problems,
            "solutions": self.solutions,
            "step_pairs": self.step_pairs,
            "final_pairs": self.final_pairs,
        }
        ordered: dict[str, Any] = {
            name: dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
            for name, counts in groups.items()
        }
        depths = {str(depth): self.by_depth[depth] for depth in sorted(self.by_depth)}
        return {**ordered, "step_pairs_by_depth": depths}


@dataclass(slots=True, repr=False)
class Curated:
    """Training data of a run; kinds that were not asked for are empty.

    Without a repr of its contents: `asyncio.run` makes the repr of a coroutine's result twice.
    """

    solutions: list[SelectedSolution] = field(default_factory=list)
    pairs: list[SelectedPair] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    values: list[PrefixValue] = field(default_factory=list)
    steps: list[LabelledSteps] = field(default_factory=list)
    suspects: list[SuspectLabel] = field(default_factory=list)
    """Probably mislabelled problems, of which nothing is in the data."""
    unreliable: list[UnreliableProblem] = field(default_factory=list)
    """Synthetic problems that are left out because their reference is in doubt."""
    sources: dict[str, str | None] = field(default_factory=dict)
    """Where each problem comes from, by its id."""
    report: Report = field(default_factory=Report)


def count(counts: dict[str, int], reason: str, by: int = 1) -> None:
    """Add to a count; reasons that never came up stay out."""
    if by:
        counts[reason] = counts.get(reason, 0) + by
