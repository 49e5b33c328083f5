"""The step grammar and the prompts: the only package that knows the tags a model reads and
writes."""

from rstar_math.steps.grammar import GRAMMAR, Grammar, Sample
from rstar_math.steps.prompts import few_shot_prompt, trained_prompt

__all__ = ["GRAMMAR", "Grammar", "Sample", "few_shot_prompt", "trained_prompt"]
