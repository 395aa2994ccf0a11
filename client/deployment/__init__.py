"""An institution's end of a deployment: its keys and papers, what it trusts, and the programs that it runs."""
