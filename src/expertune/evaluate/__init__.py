"""Metrics, intervals, baselines and the report."""
