"""Conditioning inputs of a model: local features and a speaker embedding."""
