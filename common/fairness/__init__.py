"""Group metrics and intervals from released tables."""
