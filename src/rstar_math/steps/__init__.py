"""Step formats, prompt sets and chat templates: the only package that knows what a model reads and
writes."""

from rstar_math.steps.grammar import FENCED, FORMATS, GRAMMAR, TAGS, Sample, StepFormat
from rstar_math.steps.prompts import few_shot_prompt, trained_prompt
from rstar_math.steps.rendering import ChatPrompt, Renderer, make_renderer

__all__ = [
    "FENCED",
    "FORMATS",
    "GRAMMAR",
    "TAGS",
    "ChatPrompt",
    "Renderer",
    "Sample",
    "StepFormat",
    "few_shot_prompt",
    "make_renderer",
    "trained_prompt",
]
