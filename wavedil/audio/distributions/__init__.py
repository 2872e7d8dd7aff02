"""Quantizers, and output distributions over their codes."""
