"""What is kept of a run's trees: the options of curation."""

from typing import Literal

from pydantic import Field

from rstar_math.config import Section


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
    alone: int = Field(4, ge=1)
    """Most children on the other side where a side has only one (rStar-Math's code: 4)."""
    margin: float = Field(0.0, ge=0, le=2)
    """Least difference in Q between the sides of a step pair, which is always above 0 (paper: no
    margin; its code: 0.5)."""
    edits: int = Field(0, ge=0)
    """Least edit distance, in characters, between the sides of a step pair (paper: none; its code:
    20)."""
    reworded: bool = True
    """Whether the sides of a step pair may compute the same in other words (paper and code: yes);
    without, pairs teach less of wording."""
    completions: bool = False
    """Keep a step pair only if the best right completion of its preferred side has a higher mean Q
    than the worst wrong one of the other (rStar-Math's code does; the paper is silent)."""
    descend: Literal["all", "most-visited"] = "all"
    """Whether step pairs are taken at all nodes or down the most visited path only (both modes are
    in rStar-Math's code; the paper takes all)."""
    final: int = Field(2, ge=0)
    """Right and wrong whole solutions of a problem that are paired with each other: right ones of
    the highest mean Q, wrong ones of the lowest (paper: 2; its code has none); 0 for none."""
    noise_paths: int = Field(4, ge=2)
    """Different programs that must have answered a problem, all against the reference, before the
    reference is doubted (our choice: agreement of fewer is often one common slip)."""
    noise_share: float = Field(0.8, gt=0.5, le=1)
    """Share of them that must agree on one answer for that (our choice; the paper found 19 of 20
    unsolved problems to be mislabelled by looking at them)."""
