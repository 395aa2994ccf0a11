"""Pretrained networks: frozen, named by the hash of their bytes, and what may be trained inside them."""
