"""Evaluation: what a strategy reached, how sure that is, and what it cost."""
