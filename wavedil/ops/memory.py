"""Keeping freed memory for the next step."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc


def keep_freed_memory() -> None:
    """Asks glibc to keep freed memory instead of handing it back to the system.

    A training step frees and takes the same few hundred megabytes again and again, and getting
    them from the system costs up to a fifth of a step on a CPU in page faults. The process keeps
    its peak. Does nothing with other C libraries.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
