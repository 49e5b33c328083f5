"""Language models behind one seam: `connect` gives a Completer; `StepPolicy`, `SubQuestionPolicy`,
`ActionPolicy` and `ChainPolicy` make a Policy of it, `SelfEvaluator`, `UsefulnessScorer` and
`SelfVerifier` a Scorer, `CompletingPeer` a Peer."""

from rstar_math.models.actions import ActionPolicy
from rstar_math.models.chains import ChainPolicy, CompletingPeer
from rstar_math.models.connect import connect
from rstar_math.models.policy import StepPolicy
from rstar_math.models.self_evaluation import SelfEvaluator, SelfVerifier, UsefulnessScorer
from rstar_math.models.subquestions import SubQuestionPolicy

__all__ = [
    "ActionPolicy",
    "ChainPolicy",
    "CompletingPeer",
    "SelfEvaluator",
    "SelfVerifier",
    "StepPolicy",
    "SubQuestionPolicy",
    "UsefulnessScorer",
    "connect",
]
