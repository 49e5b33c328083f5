"""Stand-ins for tests, for ours and for users' own: a policy that follows a script, a completer
that answers from a function, a world whose true values are known, two solvers that err alike or
not, recorded answers of a real model, and a model server that answers from a function, batches as
real ones do and can be told to fail.

    def script(question, prefix, k, seed):
        if prefix:
            return ["It is \\\\boxed{4}.<answer/>"]
        return ["# Add.\\nprint(2 + 2)\\n<code/>"]

    tree = Tree(Question("q", "What is 2 + 2?"))
    await grow(tree, policy=ScriptedPolicy(script), executor=sandbox, config=SearchConfig())
"""

from rstar_math.testing.cassette import Cassette
from rstar_math.testing.fake_server import Answer, Batching, FakeServer, Fault, PromptCache, serving
from rstar_math.testing.scripted import (
    Answering,
    Request,
    Script,
    ScriptedCompleter,
    ScriptedPolicy,
)
from rstar_math.testing.toy_world import ToyWorld
from rstar_math.testing.toypeers import ToyPeers, toy_units
from rstar_math.testing.toytalk import Talker, sum_problem

__all__ = [
    "Answer",
    "Answering",
    "Batching",
    "Cassette",
    "FakeServer",
    "Fault",
    "PromptCache",
    "Request",
    "Script",
    "ScriptedCompleter",
    "ScriptedPolicy",
    "Talker",
    "ToyPeers",
    "ToyWorld",
    "serving",
    "sum_problem",
    "toy_units",
]
