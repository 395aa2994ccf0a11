"""Federations on one machine; never shipped to institutions."""
