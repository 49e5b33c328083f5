"""How new problems are asked for, and when one is kept."""

from typing import Self

from pydantic import Field, model_validator

from rstar_math.config import Section


class SynthesisConfig(Section):
    """New problems that a model writes after the pattern of some it is shown, kept where its
    independent solutions agree (rStar-Math, arXiv:2501.04519: at least 3 of 10)."""

    requests: int = Field(0, ge=0)
    """Requests for new problems, each with seed problems of its own; 0 for none at all."""
    each: int = Field(4, ge=1, le=1024)
    """New problems sampled with the same seed problems."""
    shots: int = Field(3, ge=1)
    """Seed problems shown."""
    solutions: int = Field(10, ge=1)
    """Independent solutions of each new problem (paper: 10)."""
    agreeing: int = Field(3, ge=1)
    """Of them so many must agree, and more than on any other answer (paper: 3)."""
    temperature: float = Field(1.0, ge=0, le=5)
    """Sampling temperature of the new problems; their solutions have that of the policy."""
    max_tokens: int = Field(256, ge=1)
    """Most tokens of a new problem; one that is cut off is not used."""
    seed: int = 0
    """Seed of the drawing of seed problems, and of the sampling."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.agreeing > self.solutions:
            raise ValueError(f"agreeing = {self.agreeing} is above solutions = {self.solutions}")
        return self

    @property
    def most(self) -> int:
        """New problems at most."""
        return self.requests * self.each
