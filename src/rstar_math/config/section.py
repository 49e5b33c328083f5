"""What all groups of options have in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen group of options; unknown keys are refused, field docstrings are the
    descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
