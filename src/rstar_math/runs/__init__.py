"""Run files: results of searches, stored as they are found."""
