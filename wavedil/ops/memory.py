"""Memory settings of the C library, and a check that a large allocation fits in free memory."""

import ctypes
import os
import sys
from pathlib import Path

import torch

from wavedil.errors import WavedilError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for reuse instead of returning it to the system.

    A training step frees and allocates the same hundreds of megabytes repeatedly, and the page faults take up to a
    fifth of a step on a CPU. The process then keeps its peak memory. Has no effect with other C libraries.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def check_memory(needed: float, what: str, remedy: str, device: torch.device | str = "cpu") -> None:
    """Raises WavedilError if ``needed`` bytes are more than are free on the device. ``what`` is the argument's value.

    A process that allocates more is killed without a message, or fails somewhere in the middle.
    """
    free = free_memory(torch.device(device))
    if free is not None and needed > free:
        raise WavedilError(f"{what}: needs about {_size(needed)} of memory and {_size(free)} are free; {remedy}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python says that memory could not be allocated, on any device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def free_memory(device: torch.device) -> int | None:
    """Bytes that can be allocated; None if the system does not tell."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    limits = [_system_memory(), _group_memory()] if device.type == "cpu" else []
    return min((limit for limit in limits if limit is not None), default=None)


def _system_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    try:  # macOS: all memory
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _group_memory(root: str = "/sys/fs/cgroup") -> int | None:
    """Free bytes below the memory limit of a container; the file cache counts as free."""
    for limit, used, cache in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        try:
            counters = dict(line.split() for line in Path(root, cache).read_text().splitlines())
            taken = int(Path(root, used).read_text()) - int(counters["inactive_file"])
            return int(Path(root, limit).read_text()) - taken
        except (OSError, ValueError, KeyError):  # no such limit, or "max"
            continue
    return None


def _size(count: float) -> str:
    return f"{count / 2**40:,.0f} TiB" if count >= 2**43 else f"{count / 2**30:.3g} GiB"
