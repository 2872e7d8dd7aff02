"""Standard input and output that may be closed, of another encoding, or a pipe whose reader ends."""

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO


def prepare_streams() -> None:
    """Opens closed standard streams, so that no file gets their numbers, and lets all print any text."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            with suppress(OSError):
                os.fstat(number)
                continue
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is that of the stream
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def printing() -> Iterator[None]:
    """Flushes standard output at the end, so that a full disk is an error of the command.

    If the reader of a pipe has ended, e.g. ``head``, the rest is dropped. A file that was written stays written, so
    that is not an error.
    """
    try:
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
    except BrokenPipeError:
        broken = [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]
        for stream in broken:
            _drop(stream)
        if not broken:  # the pipe was another
            raise
    except OSError:
        try:
            sys.stdout.flush()
        except OSError:  # a full disk; what is left would be written again when Python ends
            _drop(sys.stdout)
        raise


def _has_no_reader(stream: TextIO) -> bool:
    """Whether a stream is a pipe whose reader has ended."""
    if not hasattr(select, "poll"):  # Windows
        return True
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)  # errors are reported always
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError):  # no file
        return False


def _drop(stream: TextIO) -> None:
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        stream.flush()
