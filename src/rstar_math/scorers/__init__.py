"""Process reward models of others as Scorers: in this process, or on a server.

The formats, what such a model reads and how its score is read, are in `prompts/step_rewards.py`.
"""
