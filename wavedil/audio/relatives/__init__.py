"""Relatives of WaveNet as short compositions of the core's blocks."""
