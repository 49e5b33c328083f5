"""Language models behind one seam: `connect` gives a Completer, `StepPolicy` makes a Policy of
it."""

from rstar_math.models.connect import connect
from rstar_math.models.policy import StepPolicy

__all__ = ["StepPolicy", "connect"]
