"""Secure aggregation: keys, shares, masks, encoding."""
