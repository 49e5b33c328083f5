"""The prompts that ask for rStar's actions. Each begins with a family's examples, which never
change, for a server's prefix cache; what is sampled follows the prompt directly.

Wherever a rephrasing (A5) comes first, its text is the question. A solution that was begun is shown
as the beginning of the answer, for the model to go on with.
"""

import re
from collections.abc import Sequence

from rstar_math.steps.actions.families import RIGHT, Family
from rstar_math.steps.actions.paths import answered, posed, said, solution_units
from rstar_math.steps.subquestions import OVERALL, asked, last_sentence, render_subquestions
from rstar_math.types import Question, Step

_NUMBER = re.compile(r"\d")


def chain_prompt(family: Family, question: Question, begun: str = "", *, shots: bool = True) -> str:
    """Asks for a whole solution, or for the rest of one that is begun; without `shots` by an
    instruction in the place of examples."""
    lead = family.cot if shots else f"{family.instruction}\n\n"
    begun = begun.strip()
    return f"{lead}{_posing(question)}Answer:{' ' if begun else ''}{begun}"


def chain_messages(
    family: Family, question: Question, *, shots: bool = True
) -> list[tuple[str, str]]:
    """The same as messages for an instruct model: the examples are turns; without `shots` an
    instruction follows the question. A begun solution is the beginning of the answer."""
    if not shots:
        return [("user", f"{question.text.strip()}\n{family.chat_instruction}")]
    turns: list[tuple[str, str]] = []
    for example in family.cot.strip().split("\n\n"):
        asked_, _, answer = example.removeprefix("Question:").partition("\nAnswer:")
        turns += [("user", asked_.strip()), ("assistant", answer.strip())]
    return [*turns, ("user", question.text.strip())]


def rest_prompt(family: Family, question: Question, prefix: Sequence[Step]) -> str:
    """A2: asks for the rest of the solution. What the prefix found is its beginning."""
    begun = "".join(solution_units(question, prefix))
    return chain_prompt(family, posed(question, prefix), begun)


def again_prompt(family: Family, question: Question, prefix: Sequence[Step]) -> str:
    """A4: asks for the answer of the prefix's last sub-question, by a chain of thought. What came
    before it is the answer's beginning."""
    *before, last = prefix
    about = f"{_facts(posed(question, prefix))} {asked(last)}"
    begun = "".join(solution_units(question, before))
    return chain_prompt(family, Question(question.id, about), begun)


def thought_prompt(family: Family, question: Question, prefix: Sequence[Step]) -> str:
    """A1: asks for the next line of a solution in steps; sub-questions show their answers."""
    lines = (" ".join(said(step).split()) for step in answered(prefix))
    shown = "".join(f"{line}\n" for line in lines if line)
    return f"{family.thoughts}{_posing(posed(question, prefix))}Steps:\n{shown}"


def ask_prompt(family: Family, question: Question, prefix: Sequence[Step]) -> str:
    """A3: asks for the next sub-question; an answer given again stands in the first one's place."""
    shown = render_subquestions([step for step in answered(prefix) if step.kind == "A3"])
    problem = posed(question, prefix).text.strip()
    return f"{family.subquestions}Problem: {problem}\n{shown}Question:"


def answer_prompt(
    family: Family, question: Question, prefix: Sequence[Step], subquestion: str
) -> str:
    """A3: asks for the answer to a sub-question."""
    return f"{ask_prompt(family, question, prefix)} {subquestion}\nAnswer:"


def overall(question: Question, prefix: Sequence[Step]) -> str:
    """The sub-question that is the problem's own."""
    return f"{OVERALL} {last_sentence(posed(question, prefix))}"


def rephrase_prompt(family: Family, question: Question) -> str:
    """A5: asks for the question as a list of conditions and what is asked."""
    return f"{family.rephrase}Problem: {question.text.strip()}\nCondition 1:"


def verify_prompt(family: Family, question: Question, steps: Sequence[Step]) -> str:
    """Asks whether a whole solution is right, yes or no."""
    solution = "".join(solution_units(question, steps))
    return f"{family.verify}{_posing(posed(question, steps))}Answer: {solution}\n{RIGHT}"


def _posing(question: Question) -> str:
    return f"Question: {question.text.strip()}\n"


def _facts(question: Question) -> str:
    """A question's text without its last sentence, unless that is all of it or gives a number."""
    last = last_sentence(question)
    text = " ".join(question.text.split())
    facts = text.removesuffix(last).rstrip()
    return facts if facts and not _NUMBER.search(last) else text
