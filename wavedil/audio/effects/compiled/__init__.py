"""Effects as C: the program that a model makes, the C source of it, and the library compiled from it."""
