"""The model without us: one greedy chain of thought in plain words, no code, no steps, no search,
graded by the same grader. What a search is worth is what it adds to this."""

from rstar_math.protocols import Completer
from rstar_math.types import Question

MAX_TOKENS = 512
"""Most tokens of a plain solution."""
_EXAMPLES = """\
Solve each problem. Think step by step and end with "The answer is ...".

Question: A box holds 3 rows of 4 eggs. Two eggs break. How many are whole?
Solution: There are 3 * 4 = 12 eggs. Two of them break, so 12 - 2 = 10 are whole. \
The answer is 10.

Question: What is the sum of the solutions of x^2 - 5x + 6 = 0?
Solution: The equation is (x - 2)(x - 3) = 0, so x is 2 or 3, and 2 + 3 = 5. The answer is 5.

Question: """
_STOPS = ("\nQuestion:", "\n\n\n")


async def plain_answer(completer: Completer, question: Question, *, seed: int = 0) -> str | None:
    """The answer that the model states in plain chain of thought at temperature 0, or None where it
    states none. Raises `ModelError`."""
    from rstar_math.grading.extract import extract_answer

    found = await completer.complete(
        f"{_EXAMPLES}{question.text.strip()}\nSolution:",
        n=1,
        stop=_STOPS,
        max_tokens=MAX_TOKENS,
        temperature=0.0,
        seed=seed,
    )
    return extract_answer(found[0].text) if found else None
