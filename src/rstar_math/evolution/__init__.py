"""Self-evolution: rounds of search, curation, training and evaluation."""
