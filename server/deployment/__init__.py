"""The operator's side of a deployment: keys and certificates, the gate, Flower's programs, and runs."""
