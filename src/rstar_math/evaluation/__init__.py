"""Metrics, statistics and reports for comparing strategies."""
