"""Training data from trees, and training of policies and preference models."""
