"""Clipped sums of per-subject gradients with one forward and one backward pass."""
