"""Prompts and their parsers: step formats, prompt sets, chat templates and rStar's actions.

No other package knows what text a model reads and writes.
"""

from rstar_math.prompts.grammar import FENCED, FORMATS, TAGS, ParsedSample, StepFormat
from rstar_math.prompts.rendering import ChatPrompt, Renderer, make_renderer
from rstar_math.prompts.templates import few_shot_prompt, prompt_text

__all__ = [
    "FENCED",
    "FORMATS",
    "TAGS",
    "ChatPrompt",
    "ParsedSample",
    "Renderer",
    "StepFormat",
    "few_shot_prompt",
    "make_renderer",
    "prompt_text",
]
