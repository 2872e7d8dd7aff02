"""The error that wavedil raises for bad input, and checks that many modules share."""


class WavedilError(ValueError):
    """Bad input, in one line: what is wrong, where, and what to do. The shell prints it and exits with status 2."""

    def __init__(self, message: object = ""):
        super().__init__(printable(message))


class Interrupted(WavedilError):
    """A signal ended a command that has no result yet; ``status`` is the exit status of the shell."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


def printable(text: object) -> str:
    r"""The text with escapes (``\\n``, ``\\x1b``, ``\\udcff``) for characters that no terminal or log should get.

    File names may hold any of them: control characters, and bytes that are not UTF-8.
    """
    return "".join(
        char if char.isprintable() or char == " " else char.encode("unicode_escape").decode() for char in str(text)
    )


def check_positive(**values: object) -> None:
    """Raises WavedilError unless each value is a positive integer; the keywords are the arguments' names."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise WavedilError(f"{name} is {value!r}: expected a positive integer")


def first_line(error: BaseException) -> str:
    """First line of the message of another library's error, or the error's class name if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
