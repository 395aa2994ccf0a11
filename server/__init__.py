"""The server: rounds, sums, evaluation; trusted by nobody."""
