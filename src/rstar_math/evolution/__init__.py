"""Self-evolution: rounds of search, training and evaluation."""
