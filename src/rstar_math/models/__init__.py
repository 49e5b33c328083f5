"""Language models behind one seam: `connect` gives a Completer, `StepPolicy` and
`SubQuestionPolicy` make a Policy of it, `SelfEvaluator` and `UsefulnessScorer` a Scorer."""

from rstar_math.models.connect import connect
from rstar_math.models.policy import StepPolicy
from rstar_math.models.self_evaluation import SelfEvaluator, UsefulnessScorer
from rstar_math.models.subquestions import SubQuestionPolicy

__all__ = ["SelfEvaluator", "StepPolicy", "SubQuestionPolicy", "UsefulnessScorer", "connect"]
