"""Encoders, the one fusion transformer, heads."""
