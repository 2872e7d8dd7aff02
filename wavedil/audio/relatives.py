"""Importing this module raises an ImportError that names the new place of the models."""

raise ImportError("wavedil.audio.relatives is now wavedil.audio.models: from wavedil.audio.models.tcn import TCN")
