"""Training: from the trees of a run to texts, pairs and labels, and from these to better models."""
