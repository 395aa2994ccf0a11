"""From one cell of a manifest to one record's numbers."""
