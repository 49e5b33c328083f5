"""rStar's five actions as text: which may follow which, the prompts that ask for them in a family
of tasks, and the steps that sampled texts hold."""

from rstar_math.steps.actions.families import Family, family
from rstar_math.steps.actions.paths import (
    ACTIONS,
    answered,
    ended,
    legal,
    posed,
    solution_units,
)
from rstar_math.steps.actions.reading import (
    ANSWER_STOPS,
    LINE_STOPS,
    REPHRASING_STOPS,
    read_answer,
    read_asked,
    read_rephrasing,
    read_thought,
)
from rstar_math.steps.actions.rendering import (
    again_prompt,
    answer_prompt,
    ask_prompt,
    chain_messages,
    chain_prompt,
    overall,
    rephrase_prompt,
    rest_prompt,
    thought_prompt,
    verify_prompt,
)

__all__ = [
    "ACTIONS",
    "ANSWER_STOPS",
    "LINE_STOPS",
    "REPHRASING_STOPS",
    "Family",
    "again_prompt",
    "answer_prompt",
    "answered",
    "ask_prompt",
    "chain_messages",
    "chain_prompt",
    "ended",
    "family",
    "legal",
    "overall",
    "posed",
    "read_answer",
    "read_asked",
    "read_rephrasing",
    "read_thought",
    "rephrase_prompt",
    "rest_prompt",
    "solution_units",
    "thought_prompt",
    "verify_prompt",
]
