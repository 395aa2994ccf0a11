"""Claims about fedmosaic, by kind. A package, because others install a `tests` of their own beside it."""
