"""Sampling: ``generate`` and ``stream``, and the engines that run them."""
