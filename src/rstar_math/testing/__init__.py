"""Stand-ins for tests, for ours and for users' own: a policy that follows a script, and a model
server that answers from a function, batches as real ones do and can be told to fail.

    def script(question, prefix, k, seed):
        if prefix:
            return ["It is \\\\boxed{4}.<answer/>"]
        return ["# Add.\\nprint(2 + 2)\\n<code/>"]

    tree = Tree(Question("q", "What is 2 + 2?"))
    await grow(tree, policy=ScriptedPolicy(script), executor=sandbox, config=SearchConfig())
"""

from rstar_math.testing.batching import Batching
from rstar_math.testing.script import Script, ScriptedPolicy
from rstar_math.testing.server import Answer, FakeServer, Fault, serving

__all__ = ["Answer", "Batching", "FakeServer", "Fault", "Script", "ScriptedPolicy", "serving"]
