"""The institution's side: its policy, its ledger, its one door out, its training."""
