"""Runs and rounds: what was found, kept so that a power cut loses nothing."""
