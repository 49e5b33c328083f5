"""The prompts of models that are asked in plain text, in the format `tags`."""

from rstar_math.steps.rendering import PLAIN, make_renderer
from rstar_math.types import Question


def trained_prompt(question: Question) -> str:
    """The prompt of a model trained on the format; a solution's text follows it directly."""
    return PLAIN.before(question)


def few_shot_prompt(question: Question) -> str:
    """Worked examples, then the question; a solution's text follows it directly."""
    return make_renderer(prompt="easy", step_format="tags").before(question)
