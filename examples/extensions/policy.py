"""A policy of your own: it proposes steps without a language model.

    PYTHONPATH=examples rstar solve "Give change of 30 cents." --model none \
        --set policy.source=extensions.policy:change --set search.max_depth=9

For the remaining amount it proposes each coin that fits. Each step is Python code that the sandbox
runs; a path ends when nothing remains. Code of your own in a configuration file from somebody else
is loaded only with --trust-config.
"""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from rstar_math.config import Config
from rstar_math.protocols import Completer, Policy
from rstar_math.types import Question, Step

COINS = (25, 10, 1)


class Change:
    """Proposes one coin per step."""

    async def propose(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[Step]:
        """All coins that are not larger than the rest, largest first."""
        total = int(re.findall(r"\d+", question.text)[0])
        last = prefix[-1].execution if prefix else None
        left = int(last.stdout) if last else total
        if left == 0:
            coins = str(len(prefix))
            return [Step(prose=f"That is {coins} coins.", kind="answer", answer=coins)]
        fitting = [coin for coin in COINS if coin <= left][:k]
        return [Step(f"# A coin of {c}.\n", f"print({left} - {c})", "coin") for c in fitting]


@asynccontextmanager
async def change(config: Config, model: Completer | None) -> AsyncIterator[Policy]:
    """Opens the policy for the lifetime of a solver. `model` is the one that --model names."""
    yield Change()
