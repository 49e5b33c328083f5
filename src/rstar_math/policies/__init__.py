"""Policies: prompts and a Completer, turned into proposals of next steps."""
