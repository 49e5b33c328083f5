"""Step formats, prompt sets and chat templates: the only package that knows what a model reads and
writes."""

from rstar_math.prompts.grammar import FENCED, FORMATS, GRAMMAR, TAGS, ParsedSample, StepFormat
from rstar_math.prompts.rendering import ChatPrompt, Renderer, make_renderer
from rstar_math.prompts.templates import few_shot_prompt, trained_prompt

__all__ = [
    "FENCED",
    "FORMATS",
    "GRAMMAR",
    "TAGS",
    "ChatPrompt",
    "ParsedSample",
    "Renderer",
    "StepFormat",
    "few_shot_prompt",
    "make_renderer",
    "trained_prompt",
]
