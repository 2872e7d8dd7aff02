"""Audio files, data sets of recordings, and built-in audio."""
