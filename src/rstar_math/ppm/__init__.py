"""The process preference model (PPM) as a Scorer: in this process, or on a server.

Inference only. The loss is in `training/preference.py`, the pairs in `training/curation/pairs.py`.
"""
