"""Metrics from counts and score histograms."""
