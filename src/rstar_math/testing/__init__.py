"""Test doubles for our own tests and for users' tests.

- `ScriptedPolicy` and `ScriptedCompleter` answer from a function.
- `ToyWorld` is a set of problems with known true values.
- `Cassette` records the answers of a real model and replays them.
- `serving` runs a fake model server with continuous batching and injected faults.

    def script(question, prefix, k, seed):
        if prefix:
            return ["It is \\\\boxed{4}.<answer/>"]
        return ["# Add.\\nprint(2 + 2)\\n<code/>"]

    tree = Tree(Question("q", "What is 2 + 2?"))
    await grow(tree, policy=ScriptedPolicy(script), executor=sandbox, config=SearchConfig())
"""

from rstar_math.testing.cassette import Cassette
from rstar_math.testing.fake_server import (
    Batching,
    FakeServer,
    Fault,
    PromptCache,
    SampleTexts,
    serving,
)
from rstar_math.testing.scripted import (
    CompletionFunction,
    Request,
    Script,
    ScriptedCompleter,
    ScriptedPolicy,
)
from rstar_math.testing.toy_world import ToyWorld

__all__ = [
    "Batching",
    "Cassette",
    "CompletionFunction",
    "FakeServer",
    "Fault",
    "PromptCache",
    "Request",
    "SampleTexts",
    "Script",
    "ScriptedCompleter",
    "ScriptedPolicy",
    "ToyWorld",
    "serving",
]
