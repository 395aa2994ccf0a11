"""What a hostile operator runs under the name of the server: the bundle that institutions approved names it."""
