"""Metrics, statistics and reports of strategies."""
