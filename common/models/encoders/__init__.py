"""Encoders: from one modality's values to tokens of the common width."""
