"""Which answer a sampled text states, by kind of problem."""

from collections.abc import Sequence
from dataclasses import replace

from rstar_math.extraction import extract_answer, extract_stated_answer
from rstar_math.prompts.action_parsing import parse_answer
from rstar_math.protocols import Completion
from rstar_math.sandbox.programs import python_in
from rstar_math.tasks import ChoiceTask, CodeTask, TextTask
from rstar_math.types import Question, Step
from rstar_math.verification.choices import read_choice
from rstar_math.verification.programs import program_of

PROGRAM_INSTRUCTION = "Write the complete Python program in one code block."
"""Asks for a program without steps."""
_MAX_SHORT_TEXT = 120
"""Longest line that counts as a short answer without a box or a phrase."""


def with_answer(question: Question, prefix: Sequence[Step], step: Step) -> Step:
    """The step with the answer that it states for the question's kind of problem.

    The answer of a code problem is the program of the steps before. The last step only says that
    the program is complete.
    """
    task = question.task
    if task is None or step.kind != "answer":
        return step
    if isinstance(task, CodeTask):
        return replace(step, answer=program_of(prefix, task))
    return replace(step, answer=stated_answer(question, step.text))


def stated_answer(question: Question, text: str) -> str | None:
    """The answer of a whole output; None if it states none."""
    task = question.task
    match task:
        case CodeTask():
            return python_in(text) if "```" in text else None
        case ChoiceTask():
            chosen = read_choice(text, task)
            return ", ".join(chosen) if chosen else None
        case TextTask():
            line = next((line for line in reversed(text.splitlines()) if line.strip()), "").strip()
            short = line if 0 < len(line) <= _MAX_SHORT_TEXT else None
            return extract_stated_answer(text) or short
    return extract_answer(text)


def chain_step(question: Question, completion: Completion, stops: Sequence[str]) -> Step | None:
    """The step of a chain of thought with its answer; None if it has none or was cut off."""
    text, task = completion.text, question.task
    if task is None:
        return parse_answer(
            text, kind="A2", finished=completion.finished, stops=stops, stated_only=False
        ).step
    if isinstance(task, CodeTask) and "```" not in text:
        text = f"```python\n{text}\n```"
    answer = stated_answer(question, text) if completion.finished else None
    return None if answer is None else Step(prose=text, kind="A2", answer=answer)
