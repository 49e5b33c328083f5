"""A small arithmetic world for the search's tests: adding a list of numbers, a step a number, by
a script that is sometimes wrong; and an executor that runs the steps without processes."""

import asyncio
import random
from collections.abc import Sequence

from rstar_math.protocols import AnswerGrouper
from rstar_math.types import Execution, ExecutionStatus, Question, Step, Verdict

NUMBERS = (3, 5, 7, 2)
QUESTION = Question("toy", "Add 3, 5, 7 and 2.")


def script(question: Question, prefix: Sequence[Step], k: int, seed: int) -> list[str]:
    """K next steps: a running sum; half are off by a little, one in twelve fails."""
    rng = random.Random(seed)
    done = len(prefix)
    if prefix and prefix[-1].kind == "code":
        run = prefix[-1].execution
        said = run.stdout.strip() if run else ""
        return [f"{'So it' if rng.random() < 0.5 else 'It'} is \\boxed{{{said}}}.\n<answer/>"] * k
    texts = []
    slips = [0, *rng.choices((0, 0, 1, 2, 10), k=k - 1)]
    rng.shuffle(slips)
    for slip in slips:
        start = "s = 0\n" if not done else ""
        code = f"{start}s += {NUMBERS[done] + slip}\n"
        if rng.random() < 1 / 12:
            code = "s = 1 / 0\n"
        end = "print(s)\n<code/>" if done == len(NUMBERS) - 1 else "<step/>"
        texts.append(f"# Add {NUMBERS[done]}.\n{code}{end}")
    return texts


class DirectExecutor:
    """Runs the toy's own steps in this process: only for code that a test wrote. Answers after a
    pause that depends on the code, so that arrival order is not the order of asking."""

    def __init__(self, pause_s: float = 0.0) -> None:
        self.pause_s = pause_s

    async def run(self, prefix: Sequence[Step], step: Step) -> Execution:
        """See `protocols.Executor`."""
        await asyncio.sleep(self.pause_s * (hash(step.code) % 7))
        printed: list[str] = []
        space: dict[str, object] = {"print": lambda value: printed.append(f"{value}\n")}
        try:
            for before in prefix:
                if not before.failed:
                    exec(before.code, space)
            printed.clear()
            exec(step.code, space)
        except Exception as error:
            return Execution(
                ExecutionStatus.ERROR, "".join(printed), type(error).__name__, str(error)
            )
        return Execution(ExecutionStatus.OK, "".join(printed))


class Equals:
    """A Verifier that compares text, and remembers that it was asked."""

    def __init__(self, reference: str) -> None:
        self.reference = reference
        self.asked = 0

    async def judge(self, answer: str) -> Verdict:
        """See `protocols.Verifier`."""
        self.asked += 1
        return Verdict.RIGHT if answer == self.reference else Verdict.WRONG


async def same_text(answers: Sequence[str]) -> list[int]:
    """A Grouper that takes answers for equal if their text is."""
    seen: dict[str, int] = {}
    return [seen.setdefault(answer, len(seen)) for answer in answers]


def by_text(question: Question) -> AnswerGrouper:
    """A QuestionGrouper: answers are equal if their texts are."""
    return same_text
