"""The independent reader of a ledger: written from docs/ledger.md, sharing no code with the writer."""
