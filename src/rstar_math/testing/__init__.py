"""Test doubles for our tests and for users': scripted policies and completers, a world with known
true values, recorded answers of a real model, and a fake model server that batches as real ones do
and can be told to fail.

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
    "ToyWorld",
    "serving",
]
