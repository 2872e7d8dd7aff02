"""Images, masks and targets: files, datasets, and built-in images."""
