"""The one error that wavedil raises for bad input."""


class WavedilError(ValueError):
    """Bad input, in one line: what is wrong, where, and what to do. The shell prints it and exits with status 2."""
