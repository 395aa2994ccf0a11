"""Privacy plans, accounting and noise."""
