"""Language models behind one seam: `connect` gives a Completer, `StepPolicy` and
`SubQuestionPolicy` make a Policy of it."""

from rstar_math.models.connect import connect
from rstar_math.models.policy import StepPolicy
from rstar_math.models.subquestions import SubQuestionPolicy

__all__ = ["StepPolicy", "SubQuestionPolicy", "connect"]
