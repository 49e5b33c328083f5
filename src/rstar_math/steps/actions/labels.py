"""What a reader is told of a step besides its words."""

from rstar_math.types import Step

NAMES = {
    "A1": "thought",
    "A2": "rest of the solution",
    "A3": "sub-question",
    "A4": "answered again",
    "A5": "question rephrased",
}


def label(step: Step) -> str:
    """The action that made a step, and how the vote on its answer went; "" for other steps."""
    name = NAMES.get(step.kind, "")
    if name and step.confidence is not None:
        name += f", {step.confidence:.0%} of the votes"
    return name
