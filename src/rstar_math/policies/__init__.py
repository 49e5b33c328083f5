"""Policies on a Completer, and scorers that need no training."""
