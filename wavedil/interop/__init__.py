"""Import and export of weights of other programs. Each module reads one program's format, without running its code."""
