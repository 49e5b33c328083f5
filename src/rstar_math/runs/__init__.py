"""Run files: results of searches, stored as they arrive."""
