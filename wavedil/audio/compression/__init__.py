"""Lossless compression of sound by the distribution of a model: arithmetic coding of its codes."""

from wavedil.audio.compression.files import compress_file, expand_file

__all__ = ["compress_file", "expand_file"]
