"""Images, masks and targets: files, data sets, and built-in pictures."""
