"""Site folders, their readers, and the batch."""
