"""Curation of training data from search trees, and training of policies and preference models."""
