"""A scripted model that answers the prompts of rStar's actions about sums, with a given accuracy.

talk = Talker(accuracy=0.7)
solver = Solver(config, model=ScriptedCompleter(talk))
await solver.solve(sum_problem(3).question, Strategy("rstar", 8))
"""

import random
import re
from collections.abc import Sequence

from rstar_math.seeding import derive
from rstar_math.types import Problem, Question

_NUMBER = re.compile(r"\d{1,9}")
_CONDITION = re.compile(r"Condition \d+:")


def sum_problem(index: int) -> Problem:
    """A sum of three numbers with its reference."""
    rng = random.Random(derive(index, "sum"))
    a, b, c = (rng.randint(2, 90) for _ in range(3))
    text = f"A list holds {a}, {b} and {c}. What is the sum of the list?"
    return Problem(Question(f"sum/{index}", text), reference=str(a + b + c))


class Talker:
    """Sampled texts for a prompt, for `ScriptedCompleter` and `serving`."""

    def __init__(self, accuracy: float, *, seed: int = 0, words: int = 0) -> None:
        self.accuracy = accuracy
        """Probability in [0, 1] that a stated answer is right."""
        self._seed = seed
        self._filler = "so it goes " * (words // 3)

    def __call__(self, prompt: str, n: int, seed: int) -> list[str]:
        """`n` texts that depend only on the arguments."""
        block = prompt.rpartition("\n\n")[2]
        asked = _CONDITION.sub("", block.partition("\n")[0])
        numbers = [int(number) for number in _NUMBER.findall(asked)] or [0]
        return [
            self._text(block, numbers, random.Random(derive(self._seed, prompt, seed, at)))
            for at in range(n)
        ]

    def _text(self, block: str, numbers: Sequence[int], rng: random.Random) -> str:
        """The text after the last block of a prompt."""
        said = sum(numbers)
        if rng.random() >= self.accuracy:
            said += rng.randint(1, 9)
        if block.endswith("Condition 1:"):
            listed = ", ".join(map(str, numbers))
            return f" The list holds {listed}.\nQuestion: What is the sum of the list?\n\n"
        if block.endswith("right?"):
            return " Yes\n" if rng.random() < self.accuracy else " No\n"
        if block.endswith("\nQuestion:"):
            if rng.random() < 0.5:
                return f" What is {numbers[0]} + {numbers[-1]}?\n"
            return " Now we can answer the question: What is the sum of the list?\n"
        if "\nSteps:\n" in block:
            if rng.random() < 0.3:
                return f"The answer is {said}.\n"
            return f"{numbers[0]} + {numbers[-1]} = {numbers[0] + numbers[-1]}.\n"
        return f" {self._filler}The numbers add up to {said}. The answer is {said}.\n\n"
